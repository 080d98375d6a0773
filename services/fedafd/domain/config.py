"""`federation.yaml` and `agent.yaml`: every knob with its default, unit, range and source.

Presets: `default` is what measured best on small data, `small` trains it in a minute on two CPU cores, `paper` keeps
the paper's choices to the letter (FedAFD, CVPR 2026, arXiv 2603.04890). Strategies (fedafd.domain.strategies) stand on
a preset, what the file sets on both. Unknown keys and bad values raise ConfigurationError with the key's path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from fedafd.domain.addresses import DialAddress
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind
from fedafd.domain.paths import HubIdOrFolder, OwnPath, placed
from fedafd.domain.presets import PRESETS, merged
from fedafd.domain.strategies import strategy_names, strategy_values
from fedafd.domain.yaml_files import parse_yaml

__all__ = [
    "AgentConfig",
    "AlignmentConfig",
    "AlignmentMode",
    "AveragingMode",
    "ClientTrainingConfig",
    "DataConfig",
    "DistillationConfig",
    "EncoderConfig",
    "EnsembleMode",
    "FederationConfig",
    "FusionConfig",
    "FusionMode",
    "KindTrainingConfig",
    "PartitionConfig",
    "QuorumConfig",
    "ServerTrainingConfig",
    "SharingConfig",
    "TlsConfig",
    "WireDtype",
    "parse_agent_config",
    "parse_config",
    "parse_federation_config",
    "read_agent_config",
    "read_federation_config",
    "stored_federation_config",
]

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AlignmentMode(StrEnum):
    """How a client aligns its encoder to the global representations."""

    OFF = "off"
    ADVERSARIAL = "adversarial"
    """BAA, the paper's."""
    ADVERSARIAL_PAIRING = "adversarial+pairing"
    """BAA and a contrastive term that tells which item is which."""
    PAIRING = "pairing"
    """That term alone."""
    CONTRASTIVE = "contrastive"
    """Inter- and intra-modal contrast of CreamFL, arXiv 2302.08888."""
    DIGEST = "digest"
    """Squared distance to the global representations: the digest step of FedMD, arXiv 1910.03581."""


class FusionMode(StrEnum):
    """What the granularity-aware fusion sees."""

    OFF = "off"
    """No fusion: the client's own feature."""
    VECTOR = "vector"
    TOKENS = "tokens"
    GLOBAL = "global"
    """No fusion and no local encoder: the frozen global feature, probed by the task's head."""


class EnsembleMode(StrEnum):
    """How the server weighs the clients' representations."""

    SIMILARITY = "similarity"
    """SED, the paper's: within the modality."""
    MEAN = "mean"
    CONTRASTIVE = "contrastive"
    """CreamFL's: against the other modality, the own item left out of the normaliser."""


class AveragingMode(StrEnum):
    """Whether clients of one architecture average their weights, and how."""

    OFF = "off"
    WEIGHTS = "weights"
    """FedAvg, arXiv 1602.05629: by the number of private samples. Weights leave the site."""


class WireDtype(StrEnum):
    """How representations travel; int8 has one float32 scale per row."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"
    INT8 = "int8"


class EncoderConfig(_Config):
    """One encoder: a backbone and a projection to D.

    `architecture` names an entry point of the group `fedafd.encoders`. `pretrained` is a hub id or a local
    folder for `from_pretrained`; without it the backbone starts from `options`, which are passed to the
    architecture's own configuration (for example transformers.ResNetConfig). A pretrained backbone brings its own
    options, tokenizer and pixel normalisation; `options` are then not used.
    """

    architecture: str
    pretrained: HubIdOrFolder | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict)
    image_size: int = Field(64, ge=8, le=1024, description="Side of the square input in pixels; image encoders.")
    max_tokens: int = Field(32, ge=4, le=512, description="Tokens kept of a text; text encoders.")
    image_mean: tuple[float, float, float] | None = Field(
        None, description="Per channel, of pixels in 0..1; null: the pretrained folder's, else 0.5."
    )
    image_std: tuple[Positive, Positive, Positive] | None = Field(
        None, description="Per channel, of pixels in 0..1; null: the pretrained folder's, else 0.25."
    )


class ServerTrainingConfig(_Config):
    """Training of the global model on the public set."""

    passes: int = Field(2, ge=1, le=100, description="Public passes per round before the representations are taken.")
    initial_passes: int = Field(
        0, ge=0, le=1000, description="Public passes before those of round 1: for a global model with fresh weights."
    )
    batch_size: int = Field(64, ge=2)
    optimizer: Literal["adamp", "adamw", "adam", "sgd"] = "adamp"
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-4
    schedule: Literal["constant", "cosine"] = "cosine"
    schedule_rounds: Count = 40
    loss_scale: Positive = Field(8.0, description="Initial a and b of the soft contrastive loss (paper: 15).")
    clip_norm: Positive = 2.0
    augment: bool = Field(True, description="Random crop and flip of public images during training.")
    autocast: Literal["auto", "bfloat16", "off"] = Field("auto", description="auto: bfloat16 on a GPU.")
    accumulate: Count = Field(1, description="Parts a batch is encoded in: same gradient, memory of one part.")
    compile: bool = Field(False, description="torch.compile the encoders; on a CPU it needs a C++ compiler.")


class AlignmentConfig(_Config):
    """BAA: bi-level adversarial alignment, plus the options that measured better."""

    mode: AlignmentMode = AlignmentMode.ADVERSARIAL_PAIRING
    weight: NonNegative = Field(0.5, description="lambda of the paper.")
    schedule: Literal["joint", "separate"] = Field(
        "joint", description="joint: one public batch beside each private batch; separate: a whole pass first (paper)."
    )
    max_gradient_share: float | None = Field(
        0.05,
        gt=0,
        description="Adversarial gradient norm at most this share of the task's; null: no balancing (paper).",
    )
    discriminator_learning_rate: Positive = 1e-4
    pairing_weight: NonNegative = 0.3
    pairing_temperature: Positive = 0.1
    contrastive_weight: NonNegative = Field(0.5, description="Weight of CreamFL's two contrasts.")
    contrastive_temperature: Positive = Field(0.1, description="Of CreamFL's two contrasts.")
    digest_weight: NonNegative = Field(1.0, description="Weight of the squared distance of mode digest.")
    centre: bool = Field(True, description="Subtract the public mean of the global representations first.")


class FusionConfig(_Config):
    """GFF: granularity-aware feature fusion."""

    mode: FusionMode = FusionMode.VECTOR
    reduction: Count = Field(4, description="Bottleneck ratio of AFF, arXiv 2009.14082.")
    inner_norm: bool = Field(False, description="Normalisation layers inside the attention branches (paper: true).")
    zero_init: bool = Field(True, description="Zero-initialised last layers, so that the gate starts at its offset.")
    normalise_output: bool = True
    calibrate_gate: bool = Field(
        True,
        description="After training, move the gate where the validation split shows a gain of two standard errors.",
    )
    auxiliary_weight: NonNegative = Field(0.5, description="Weight of the task loss on the local and global feature.")
    persistent: bool = Field(True, description="Keep the fusion's weights between rounds.")
    warm_start_steps: int = Field(
        0, ge=0, description="Steps of fusion and head alone, encoders held, before a client's first local epoch."
    )


class KindTrainingConfig(_Config):
    """Local training of one kind of client."""

    batch_size: int = Field(32, ge=2)
    optimizer: Literal["adamp", "adamw", "adam", "sgd"] = "adamp"
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-4
    momentum: NonNegative = 0.9
    schedule: Literal["constant", "steps"] = Field(
        "constant", description="steps: x0.1 at 50 % and 80 % of the rounds."
    )
    fusion_learning_rate: Positive = 1e-4
    fusion_weight_decay: NonNegative = 0.0
    gate_init: float = Field(0.0, description="Initial gate logit: below 0 leans to the global feature.")
    public_weight: NonNegative = Field(
        1.0, description="Factor on the pairing term, the contrasts and the digest, beside this kind's task loss."
    )


class ClientTrainingConfig(_Config):
    """Local training: common values and one block per kind."""

    local_epochs: Count = 5
    loss_scale: Positive = Field(8.0, description="Initial a and b of a pair client's soft contrastive loss.")
    separation_weight: NonNegative = Field(
        0.5, description="Weight of the class-separation term, cross-entropy of W W^T."
    )
    clip_norm: Positive = 2.0
    augment: bool = True
    autocast: Literal["auto", "bfloat16", "off"] = Field("auto", description="auto: bfloat16 on a GPU.")
    accumulate: Count = Field(1, description="Parts a batch is encoded in: same gradient, memory of one part.")
    compile: bool = Field(False, description="torch.compile the encoders; on a CPU it needs a C++ compiler.")
    vocabulary: Literal["public+private", "public"] = Field(
        "public+private", description="Texts whose words a client's text encoder knows; averaging needs public."
    )
    public_samples_per_epoch: int | None = Field(None, ge=1, description="null: the whole public set in each epoch.")
    image: KindTrainingConfig = KindTrainingConfig()
    text: KindTrainingConfig = KindTrainingConfig()
    # A pair client's task loss, a sum over the pairs of a batch, is more than ten times a cross-entropy.
    pair: KindTrainingConfig = KindTrainingConfig(gate_init=-1.5, public_weight=16.0)

    def for_kind(self, kind: ClientKind) -> KindTrainingConfig:
        """The block of one kind."""
        return {ClientKind.IMAGE: self.image, ClientKind.TEXT: self.text, ClientKind.PAIR: self.pair}[kind]


class DistillationConfig(_Config):
    """SED: similarity-guided ensemble distillation."""

    enabled: bool = Field(True, description="false: the server learns from the public set alone.")
    ensemble: EnsembleMode = EnsembleMode.SIMILARITY
    temperature: Positive = Field(0.1, description="tau (paper: 1).")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the similarities; bfloat16 is faster where the hardware has it: docs/performance.md."
    )
    self_share: float = Field(
        0.5, ge=0, le=1, description="Share of the global model's own representations in the targets (paper: 0)."
    )
    weight: NonNegative = Field(300.0, description="beta, on the mean over B and D (paper: 0.4, in its own pass).")
    start_round: Count = Field(3, description="First round that distils; earlier ones train only.")
    passes: int = Field(1, ge=1)
    joint: bool = Field(True, description="Distil in the same pass as the contrastive loss (paper: false).")
    centre: bool = Field(True, description="Weigh and distil on centred representations.")
    normalise_aggregate: bool = True
    staleness_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Weight per round of age of what a client without a delivery sent before; null: leave it out.",
    )
    max_staleness: int = Field(3, ge=1, description="Rounds after which what a client sent before no longer counts.")


class QuorumConfig(_Config):
    """Deliveries that a round needs to go on; less and it fails with that reason."""

    min_clients: Count = 1
    min_image_clients: int = Field(0, ge=0, description="Deliveries with image representations.")
    min_text_clients: int = Field(0, ge=0, description="Deliveries with text representations.")


class FederationConfig(_Config):
    """`federation.yaml`: what every participant of a federation agrees on."""

    name: Name
    preset: Literal["default", "small", "paper"] = "default"
    strategy: str = Field("fedafd", description="A named set of values: see docs/strategies.md.")
    seed: int = Field(0, ge=0, lt=2**63)
    embedding_dim: int = Field(256, ge=8, le=4096, description="D.")
    image_encoder: EncoderConfig = EncoderConfig(architecture="resnet")
    text_encoder: EncoderConfig = EncoderConfig(architecture="bigru")
    server: ServerTrainingConfig = ServerTrainingConfig()
    client: ClientTrainingConfig = ClientTrainingConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    fusion: FusionConfig = FusionConfig()
    distillation: DistillationConfig = DistillationConfig()
    averaging: AveragingMode = AveragingMode.OFF
    quorum: QuorumConfig = QuorumConfig()
    wire_dtype: WireDtype = WireDtype.FLOAT16
    round_deadline_seconds: float | None = Field(3600.0, gt=0, description="null: wait for ever.")
    idle_timeout_seconds: float = Field(300.0, gt=0, description="No byte and no step of progress for so long: lost.")
    accept_personalized_models: bool = Field(True, description="Take personalized models from sites that share them.")
    max_upload_bytes: int = Field(2 * 2**30, ge=2**20)

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset = PRESETS.get(str(values.get("preset", "default")), {})
        name = str(values.get("strategy", "fedafd"))
        strategy = strategy_values(name) if name in strategy_names() else {}
        return merged(merged(preset, strategy), values)

    @field_validator("strategy")
    @classmethod
    def _is_known(cls, name: str) -> str:
        strategy_values(name)
        return name

    @model_validator(mode="after")
    def _averages_one_vocabulary(self) -> FederationConfig:
        if self.averaging is not AveragingMode.OFF and self.client.vocabulary != "public":
            raise ValueError("averaging: weights needs client.vocabulary: public, so that embeddings mean the same")
        return self

    def canonical_json(self) -> str:
        """The configuration as JSON with sorted keys; parses back to an equal object."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def stored_federation_config(values: Mapping[str, Any]) -> FederationConfig:
    """A configuration that was checked when it was stored; parsed once in a process, because it is asked for often."""
    return _parsed(json.dumps(values, sort_keys=True, separators=(",", ":")))


@lru_cache(maxsize=64)
def _parsed(canonical: str) -> FederationConfig:
    return FederationConfig.model_validate_json(canonical)


class PartitionConfig(_Config):
    """Which share of a data set a site takes; for trials that split one data set among sites."""

    scheme: Literal["iid", "dirichlet"] = "iid"
    alpha: Positive = Field(0.1, description="Dirichlet concentration; small means unlike sites.")
    num_clients: Count = 1
    index: int = Field(0, ge=0, description="This site's share, from 0.")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _index_is_a_part(self) -> PartitionConfig:
        if self.index >= self.num_clients:
            raise ValueError(f"index is {self.index}, but there are {self.num_clients} parts, counted from 0")
        return self


class DataConfig(_Config):
    """The private data: `adapter` names an entry point of the group `fedafd.datasets`."""

    adapter: str
    path: OwnPath | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict)
    partition: PartitionConfig | None = None
    drop_repeats: bool = Field(
        False, description="Leave out training samples whose content is in the validation or test split, too."
    )


class SharingConfig(_Config):
    """What may leave the site beside representations of the public set."""

    personalized_model: bool = False
    weights: bool = Field(False, description="The encoders' weights, for federations that average them.")
    metrics: bool = True


class TlsConfig(_Config):
    """TLS to the aggregator. Empty (`tls: {}`) trusts the public authorities and shows no certificate."""

    authorities: OwnPath | None = Field(None, description="PEM of the trusted authorities; null: the public ones.")
    certificate: OwnPath | None = Field(None, description="PEM of our certificate, where the aggregator asks for one.")
    key: OwnPath | None = Field(None, description="PEM of its key, unencrypted.")
    server_name: str | None = Field(None, description="Name in the aggregator's certificate; null: the host's.")

    @model_validator(mode="after")
    def _check_pair(self) -> TlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are needed together")
        return self


class BaselineMode(StrEnum):
    """Who trains the baseline, a site's own model without the federation."""

    OFF = "off"
    BACKGROUND = "background"


class AgentConfig(_Config):
    """`agent.yaml`: one site's agent."""

    aggregator: DialAddress = Field(description="host:port of the aggregator.")
    kind: ClientKind
    data: DataConfig
    state_dir: OwnPath = Field(Path("fedafd-agent"), description="Credential, personalized model and cache live here.")
    image_encoder: EncoderConfig | None = None
    text_encoder: EncoderConfig | None = None
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$", description="auto, cpu, cuda, cuda:N or mps."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads for training; null: all cores.")
    share: SharingConfig = SharingConfig()
    baseline: BaselineMode = Field(
        BaselineMode.OFF,
        description="Your model trained alone, to compare with. off: by `fedafd agent baseline` only; background: by"
        " the agent, with time and threads that rounds do not need.",
    )
    tls: TlsConfig | None = Field(None, description="TLS to the aggregator; null: none.")
    metrics_port: int | None = Field(None, ge=1, le=65535, description="Prometheus metrics; null: none.")
    metrics_host: str = Field("127.0.0.1", description="Address that the metrics are served on.")


C = TypeVar("C", bound=BaseModel)
_SHOWN_CHARACTERS = 200


def parse_config(model: type[C], values: Any, source: str) -> C:
    """`values` checked against `model`. Raises ConfigurationError listing each key that is wrong, with its path."""
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{source}: expected keys and values, found {type(values).__name__}", source=source)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(f"{source}: {_describe(model, error)}", source=source) from None


def _describe(model: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"]) or "(top level)"
        if item["type"] == "extra_forbidden":
            allowed = ", ".join(_allowed_keys(model, item["loc"][:-1]))
            lines.append(f"{path}: unknown key; allowed here: {allowed}")
        elif item["type"] == "missing":
            lines.append(f"{path}: missing, but needed")
        elif item["type"] == "model_type":
            allowed = ", ".join(_allowed_keys(model, item["loc"]))
            lines.append(f"{path}: must be a block of keys ({allowed}); found {_shown(item['input'])}")
        elif item["type"] == "value_error":
            lines.append(f"{path}: {item['ctx']['error']}")
        else:
            lines.append(f"{path}: {item['msg']}; found {_shown(item['input'])}")
    return "; ".join(lines)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _allowed_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        annotations = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        nested = [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return sorted(model.model_fields)


def _read(model: type[C], path: Path) -> C:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}", source=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8: {error.reason}", source=str(path)) from None
    try:
        values = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not valid YAML: {error}", source=str(path)) from None
    return parse_config(model, values, str(path))


def read_federation_config(path: Path) -> FederationConfig:
    """Read `federation.yaml`; relative paths in it follow the file.

    Raises ConfigurationError naming the file, the key's path and what is allowed.
    """
    return placed(_read(FederationConfig, path), path.parent)


def read_agent_config(path: Path) -> AgentConfig:
    """Read `agent.yaml`; relative paths in it, and its defaults, follow the file.

    Raises ConfigurationError naming the file, the key's path and what is allowed.
    """
    return placed(_read(AgentConfig, path), path.parent)


def parse_federation_config(values: Any, source: str = "federation") -> FederationConfig:
    """Check already decoded values, such as a REST body. Raises ConfigurationError."""
    return parse_config(FederationConfig, values, source)


def parse_agent_config(values: Any, source: str = "agent") -> AgentConfig:
    """Check already decoded values. Raises ConfigurationError."""
    return parse_config(AgentConfig, values, source)
