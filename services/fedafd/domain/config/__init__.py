"""`federation.yaml` and `agent.yaml`: every key with its default, unit, range and source.

Presets: `default` is what measured best on small data, `small` trains it in a minute on two CPU cores, `paper` keeps
the paper's choices to the letter (FedAFD, CVPR 2026, arXiv 2603.04890). Strategies (fedafd.domain.strategies) stand on
a preset, what the file sets on both. Unknown keys and bad values raise ConfigurationError with the key's path.
"""

from fedafd.domain.config.agent import (
    AgentConfig,
    BaselineMode,
    DataConfig,
    DirectUploadConfig,
    PartitionConfig,
    SharingConfig,
    TlsConfig,
)
from fedafd.domain.config.cohort import CohortConfig
from fedafd.domain.config.encoders import EncoderConfig, LoraConfig
from fedafd.domain.config.federation import FederationConfig, QuorumConfig, stored_federation_config
from fedafd.domain.config.method import AlignmentConfig, DistillationConfig, FusionConfig
from fedafd.domain.config.modes import AlignmentMode, AveragingMode, BundleDtype, EnsembleMode, FusionMode, WireDtype
from fedafd.domain.config.policy import PolicyConfig
from fedafd.domain.config.privacy import DpConfig, PrivacyConfig
from fedafd.domain.config.reading import (
    parse_agent_config,
    parse_config,
    parse_federation_config,
    read_agent_config,
    read_federation_config,
)
from fedafd.domain.config.retention import RetentionConfig
from fedafd.domain.config.task import TaskConfig, usual_task
from fedafd.domain.config.training import ClientTrainingConfig, KindTrainingConfig, ServerTrainingConfig

__all__ = [
    "AgentConfig",
    "AlignmentConfig",
    "AlignmentMode",
    "AveragingMode",
    "BaselineMode",
    "BundleDtype",
    "ClientTrainingConfig",
    "CohortConfig",
    "DataConfig",
    "DirectUploadConfig",
    "DistillationConfig",
    "DpConfig",
    "EncoderConfig",
    "EnsembleMode",
    "FederationConfig",
    "FusionConfig",
    "FusionMode",
    "KindTrainingConfig",
    "LoraConfig",
    "PartitionConfig",
    "PolicyConfig",
    "PrivacyConfig",
    "QuorumConfig",
    "RetentionConfig",
    "ServerTrainingConfig",
    "SharingConfig",
    "TaskConfig",
    "TlsConfig",
    "WireDtype",
    "parse_agent_config",
    "parse_config",
    "parse_federation_config",
    "read_agent_config",
    "read_federation_config",
    "stored_federation_config",
    "usual_task",
]
