"""What each family does with images and chat: one file a family, one record in each."""

from genrecal_mcore.config import Family
from genrecal_mcore.data.families import internvl, nvlm_d, qwen2_vl
from genrecal_mcore.data.families.record import FamilyRecord

FAMILIES: dict[Family, FamilyRecord] = {
    Family.INTERNVL: internvl.RECORD,
    Family.NVLM_D: nvlm_d.RECORD,
    Family.QWEN2_VL: qwen2_vl.RECORD,
    Family.QWEN2_5_VL: qwen2_vl.RECORD,
}

__all__ = ["FAMILIES", "FamilyRecord"]
