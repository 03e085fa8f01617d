"""What a run is: its YAML, the model families, the description of a converted teacher.

Imports nothing heavy, so that a bad configuration is refused in a moment. Start with `run_config`.
"""

from genrecal_mcore.config.family import Family, family_of_hf_config, family_of_hf_folder
from genrecal_mcore.config.loading import (
    ConfigError,
    load_run_config,
    problems_of,
    read_mapping,
    run_config_of,
    write_run_config,
)
from genrecal_mcore.config.run_config import (
    TWO_HEAD_METHODS,
    CacheRows,
    DataConfig,
    DataSource,
    LoraConfig,
    MeshConfig,
    Method,
    Positions,
    PositionWeighting,
    RunConfig,
    StudentMesh,
    TeacherConfig,
    TeacherMesh,
    TrainConfig,
)
from genrecal_mcore.config.teacher_manifest import (
    LanguageBodySpec,
    LayoutName,
    TeacherManifest,
    load_teacher_manifest,
    sha256_of,
    validate_teacher_folder,
)

__all__ = [
    "TWO_HEAD_METHODS",
    "CacheRows",
    "ConfigError",
    "DataConfig",
    "DataSource",
    "Family",
    "LanguageBodySpec",
    "LayoutName",
    "LoraConfig",
    "MeshConfig",
    "Method",
    "PositionWeighting",
    "Positions",
    "RunConfig",
    "TeacherConfig",
    "StudentMesh",
    "TeacherManifest",
    "TeacherMesh",
    "TrainConfig",
    "family_of_hf_config",
    "family_of_hf_folder",
    "load_run_config",
    "load_teacher_manifest",
    "problems_of",
    "read_mapping",
    "run_config_of",
    "sha256_of",
    "validate_teacher_folder",
    "write_run_config",
]
