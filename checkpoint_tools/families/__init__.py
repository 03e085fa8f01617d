"""One table a family: where its tensors go."""

from checkpoint_tools.families import internvl, qwen2_vl
from checkpoint_tools.families.record import FamilyTable
from genrecal_mcore.config import Family

TABLES: dict[Family, FamilyTable] = {
    Family.INTERNVL: internvl.TABLE,
    Family.QWEN2_VL: qwen2_vl.TABLE,
}

__all__ = ["TABLES", "FamilyTable"]
