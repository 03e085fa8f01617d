"""What a run is: one YAML file, checked whole before anything else happens.

Every problem is reported at once, each with the key, what was found and what to change. Runtime objects
(groups, devices, tokenizers) are never fields. Loading and overrides are in `loading`.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

TwoHeadMethod = Literal["kl", "reverse_kl", "skew_reverse_kl"]
"""Compares the next-token distributions of both models, each made by its own head."""
TWO_HEAD_METHODS: tuple[str, ...] = get_args(TwoHeadMethod)
Method = Literal["genrecal", "sft", TwoHeadMethod]
Positions = Literal["all", "answers"]
PositionWeighting = Literal["tokens", "boundary_and_rest"]
CacheRows = Literal["answers", "all"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunFolder(_Section):
    """Where a run writes."""

    dir: Path
    """The run folder; a run that exists is only touched with `--resume`."""


class TeacherMesh(_Section):
    """Degrees of the teacher mesh; its size is tp x pp x dp ranks."""

    tp: int = Field(default=1, ge=1)
    """Tensor parallelism: each layer's weights over this many ranks; keep it inside a node."""
    pp: int = Field(default=1, ge=1)
    """Pipeline stages; the number of layers must be a multiple, or `layers_per_stage` cut it up."""
    layers_per_stage: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Decoder layers of each pipeline stage, in order; as many on each if left out. Fewer on the first stage
    make up for the vision tower, which stands there too.
    """
    dp: int = Field(default=1, ge=1)
    """Replicas of the teacher, which serve the student ranks in turn."""
    sequence_parallel: bool = False
    """Shares norms and activations between layers out over tp; needs tp > 1."""


class StudentMesh(_Section):
    """Degree of the student mesh."""

    dp: int = Field(default=1, ge=1)
    """Student ranks; parameters are sharded over them. Any number, whatever the teacher's."""


class MeshConfig(_Section):
    """Both meshes; together they must have as many ranks as the job."""

    teacher: TeacherMesh | None = None
    student: StudentMesh = StudentMesh()


class TrainConfig(_Section):
    """How long and how fast to learn."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    micro_batch_size: int = Field(ge=1)
    """Samples a student rank takes through the model at once, on average: they are dealt out by length."""
    accumulation_steps: int = Field(default=1, ge=1)
    """Microbatches a rank sums up before an optimizer step."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of a microbatch, in either tokenizer. A step still takes micro_batch_size x
    accumulation_steps samples a rank, but in as few microbatches as hold them.
    """
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate of the first step."""
    lr_final: float = Field(default=1e-5, ge=0)
    """Learning rate of the last step; between them it falls linearly."""
    seed: int = Field(default=0, ge=0)
    """Decides the sample order, new weights and dropout."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    gradient_checkpointing: bool = True
    """Computes the student's activations again in the backward pass instead of keeping them."""
    checkpointed_layers: int | None = Field(default=None, ge=1)
    """Of the student's decoder layers, how many are computed again, the first ones; all if left out. Fewer
    are faster, where there is memory for what the others keep.
    """
    reshard_after_forward: bool = True
    """Whether a student rank lets go of a decoder layer's weights after the forward pass and gathers them
    again for the backward pass. False is faster where there is memory for the student's whole weights: those
    that learn are gathered once a microbatch, frozen ones never.
    """
    reduce_every_microbatch: bool = False
    """Whether gradients are summed over the student ranks with each microbatch, and kept as shards, instead
    of once a step, and kept whole until then.
    """
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the student's computation and frozen weights; what learns is kept in float32."""
    checkpoint_every_steps: int = Field(default=100, ge=1)
    """Steps between checkpoints; the last step always writes one."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints to keep."""
    diagnostics_every_steps: int | None = Field(default=None, ge=1)
    """Steps between measurements of the gradient that reaches the student's features through the
    Recalibrator, which such a step runs twice; never if left out.
    """

    def diagnoses(self, step: int) -> bool:
        """Return whether that gradient is measured in a step."""
        return self.diagnostics_every_steps is not None and step % self.diagnostics_every_steps == 0

    def num_checkpointed(self, num_layers: int) -> int:
        """Return how many decoder layers of a student that learns are computed again, of `num_layers`."""
        if not self.gradient_checkpointing:
            return 0
        return num_layers if self.checkpointed_layers is None else self.checkpointed_layers


class TransferConfig(_Section):
    """The channel from teacher to student ranks."""

    prefetch: int = Field(default=2, ge=1)
    """Units that may be under way on each side: how far the teacher runs ahead, and the buffers that costs.
    """
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds to wait for another rank before the run ends with an error that names it."""


class TeacherConfig(_Section):
    """The frozen teacher."""

    checkpoint: Path
    """Folder written by `checkpoint_tools/hf2mcore.py`."""
    read_cache: Path | None = None
    """Feature cache to read instead of running the teacher: the job then has student ranks only."""
    write_cache: Path | None = None
    """Feature cache to which the student ranks add the features that they receive, of samples that it lacks.
    """
    cache_rows: CacheRows = "answers"
    """Rows of a cache that is written: `answers` are what stage 2 needs, `all` what stage 1 with the
    regularizer does.
    """
    cache_shard_mib: float = Field(default=1024, gt=0)
    """Size of the files that are written; each student rank holds one in host memory until it is full."""

    @property
    def writes_questions(self) -> bool:
        """Whether a cache is written that holds every row."""
        return self.write_cache is not None and self.cache_rows == "all"


class LoraConfig(_Section):
    """Adapters on the student's language body in stage 2."""

    r: int = Field(default=64, ge=1)
    """Rank."""
    alpha: int = Field(default=64, ge=1)
    """The adapter's output is scaled by alpha / r."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """On the adapter's input, while training."""


class StudentConfig(_Section):
    """The student that learns."""

    checkpoint: Path
    """Hugging Face folder."""
    lora: LoraConfig | None = LoraConfig()
    """None lets the language body itself learn in stage 2: its decoder layers and last norm. Embeddings, head
    and the vision side stay as they are, as with adapters.
    """


class RecalibratorConfig(_Section):
    """The Recalibrator between both models."""

    num_layers: int = Field(default=2, ge=1)
    """Decoder blocks of Rec-body."""
    regularizer: bool = True
    """Whether stage 1 also learns the teacher's own path; needs the teacher's question rows."""
    learns_in_stage_2: bool = True
    """Whether the Recalibrator goes on learning while it teaches."""
    extra_norm: bool = True
    """Whether a LayerNorm stands between the Recalibrator and the teacher's head, as in the paper."""
    answer_input: Literal["features", "embeddings", "masked"] = "features"
    """What stands for the answer in its input: the teacher's features as in the paper, the teacher's input
    embeddings of the answer's tokens, or a random mixture. Features say what the teacher's head needs; with
    embeddings it has to come from the student.
    """
    student_answers: bool = False
    """Whether the student's own features of its answer tokens stand among the teacher's embeddings, each
    before the first one that knows as much text; needs `answer_input` embeddings.
    """
    masked_rate: float = Field(default=0.5, gt=0, lt=1)
    """Share of the answer's rows that are embeddings where `answer_input` is `masked`."""


class DistillationConfig(_Section):
    """How the methods that compare both models' own next-token distributions do it, in stage 2."""

    positions: Positions = "all"
    """`all` compares at every token, questions and images too, which both models must cut in the same way;
    `answers` where an answer token is predicted, so that images and chat headers may differ.
    """
    skew: float = Field(default=0.1, gt=0, lt=1)
    """Share of the student's distribution in the mixture that `skew_reverse_kl` compares it with."""


class LossConfig(_Section):
    """How the losses through a head are computed, and how they count."""

    ce_weight: float = Field(default=1.0, ge=0)
    """Of the cross entropy through the Recalibrator and the teacher's head, on both paths; 0 leaves KL only.
    """
    kl_weight: float = Field(default=1.0, ge=0)
    """Of the KL there, 0 leaves cross entropy only; in the methods that compare both models' own heads, of
    that divergence.
    """

    position_weighting: PositionWeighting = "tokens"
    """How the Recalibrator's positions count: `tokens` all alike, as in the paper; `boundary_and_rest` the
    mean over the boundary positions and the mean over the others half each, however long the answers are.
    """

    memory_budget_mib: int = Field(default=512, ge=1)
    """Most extra memory for logits and their gradients; more makes larger matrix products, up to 512 rows."""


class DataSource(_Section):
    """Conversations of one origin: a file, a folder of files, or a pattern of their names."""

    path: Path
    """`.json` or `.jsonl` in the LLaVA format, `.parquet` as Hugging Face has it, `.tar` as WebDataset has
    it; a folder stands for all parquet or tar files below it, `*` and `{000..117}` for what they match.
    """
    images: Path | None = Field(default=None, validate_default=True)
    """Folder that image paths in the files are relative to; needed unless images lie in the files."""
    name: str | None = None
    """What reports call it; the file's name otherwise."""
    domain: str | None = None
    """What its samples are about, unless a record says its own `domain`."""
    weight: float | None = Field(default=None, gt=0)
    """Its share of what is drawn, against the weights of the others, however many samples it has: one that
    has few comes round more often. All sources have a weight, or none, and then every sample is drawn once an
    epoch.
    """

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.name or self.path.stem

    @field_validator("images")
    @classmethod
    def _is_needed_beside_json(cls, images: Path | None, info: ValidationInfo) -> Path | None:
        path = info.data.get("path")
        if images is None and path is not None and path.suffix in (".json", ".jsonl"):
            raise PydanticCustomError("missing", "is needed beside a JSON file")
        return images


class DataConfig(_Section):
    """What is learnt from."""

    sources: tuple[DataSource, ...] = Field(min_length=1)
    """In a run's YAML also the path of a YAML file that holds the list."""
    exclude_domains: tuple[str, ...] = ()
    """Domains whose samples are not drawn. They stay in the index, which serves any choice of them."""
    index: Path | None = None
    """Folder of the index of all samples, for several runs with the same data and models; built where there
    is none, never replaced. A run keeps its own in the run folder if left out.
    """
    max_tokens: int = Field(default=4096, ge=1)
    """Longest sample in either tokenizer, image tokens included; longer ones are skipped and listed."""
    length_window: int = Field(default=1, ge=1)
    """Samples of the order, from its start on, that are sorted by length, so that those of a step are about
    as long and all ranks as busy; a few steps' worth where a rank takes few samples a step. 1 sorts nothing.
    """
    max_skipped_share: float = Field(default=0.01, ge=0, le=1)
    """Largest share of broken samples that a run accepts."""
    num_workers: int = Field(default=2, ge=0)
    """Processes of each rank that decode images and tokenize ahead of it; 0 lets the rank do it itself. More
    help where `data_s` stays well above 0 and the node has cores to spare. Changes no result.
    """
    verify_images: bool = True
    """Decodes every image before training, so that a corrupt one is found at the door."""


class TraceConfig(_Section):
    """Steps of which every rank records what it did when; `genrecal trace` puts it together."""

    first_step: int = Field(ge=0)
    """The first of them; the very first steps of a start are slower than the rest."""
    num_steps: int = Field(ge=1)
    """A few: each change of what a rank does is a line of about 250 bytes."""

    @property
    def steps(self) -> range:
        """The steps."""
        return range(self.first_step, self.first_step + self.num_steps)


class RunConfig(_Section):
    """One run of one stage."""

    stage: Literal[1, 2, 3]
    """1 aligns the Recalibrator, 2 distils into the student, 3 fine-tunes the student alone."""
    method: Method = "genrecal"
    """The others are baselines of stages 2 and 3 without Recalibrator. `sft` has no teacher; `kl`,
    `reverse_kl` and `skew_reverse_kl` compare both models' distributions, and need equal tokens.
    """
    init_from: Path | None = None
    """Run folder whose result this run starts from."""
    run: RunFolder
    mesh: MeshConfig = MeshConfig()
    train: TrainConfig
    transfer: TransferConfig = TransferConfig()
    teacher: TeacherConfig | None = None
    student: StudentConfig
    recalibrator: RecalibratorConfig = RecalibratorConfig()
    distillation: DistillationConfig = DistillationConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig
    trace: TraceConfig | None = None
    """None records nothing and costs nothing."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is one."""

    @property
    def has_recalibrator(self) -> bool:
        """Whether this run runs a Recalibrator."""
        return self.method == "genrecal" and self.stage != 3

    @property
    def compares_heads(self) -> bool:
        """Whether this run compares the distributions that both models' own heads give."""
        return self.stage == 2 and self.method in TWO_HEAD_METHODS

    @property
    def reads_cache(self) -> bool:
        """Whether a feature cache stands in for teacher ranks."""
        return self.teacher is not None and self.teacher.read_cache is not None

    @property
    def most_unit_tokens(self) -> int:
        """Most tokens that a packed microbatch can have in either tokenizer."""
        if self.train.micro_batch_tokens is not None:
            return min(self.train.micro_batch_tokens, self._rank_samples * self.data.max_tokens)
        return self.train.micro_batch_size * self.data.max_tokens

    @property
    def may_accumulate(self) -> bool:
        """Whether a step can have several microbatches."""
        if self.train.micro_batch_tokens is not None:
            return self._rank_samples * self.data.max_tokens > self.train.micro_batch_tokens
        return self.train.accumulation_steps > 1

    @property
    def keeps_whole_gradients(self) -> bool:
        """Whether student ranks add up gradients whole, and reduce them with a step's last microbatch."""
        return self.may_accumulate and not self.train.reduce_every_microbatch

    @property
    def _rank_samples(self) -> int:
        return self.train.micro_batch_size * self.train.accumulation_steps
