from genrecal_mcore.training.ahead import begun_ahead


def test_items_come_in_order_and_no_more_than_depth_of_them_have_begun_early() -> None:
    begun: list[int] = []

    def begin(item: int) -> int:
        begun.append(item)
        return 10 * item

    for item, result in begun_ahead(range(7), begin, depth=2):
        assert result == 10 * item
        assert begun == list(range(min(7, item + 3)))
    assert item == 6


def test_a_depth_beyond_the_end_begins_everything_once() -> None:
    assert list(begun_ahead("ab", str.upper, depth=5)) == [("a", "A"), ("b", "B")]
