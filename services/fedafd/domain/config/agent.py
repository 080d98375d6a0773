"""`agent.yaml`: one site's agent, its data, what it may share, and how it reaches the aggregator."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, model_validator

from fedafd.domain.addresses import DialAddress, OriginUrl
from fedafd.domain.config.base import Config, Count, Positive
from fedafd.domain.config.encoders import EncoderConfig
from fedafd.domain.config.policy import PolicyConfig
from fedafd.domain.config.privacy import PrivacyConfig
from fedafd.domain.config.task import TaskConfig
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.paths import HubIdOrFolder, OwnPath
from fedafd.domain.proxies import is_loopback

__all__ = [
    "AgentConfig",
    "BaseWeightsConfig",
    "BaselineMode",
    "DataConfig",
    "DirectUploadConfig",
    "PartitionConfig",
    "PlaintextField",
    "SharingConfig",
    "TlsConfig",
]


class PartitionConfig(Config):
    """Which share of a data set a site takes; for trials that split one data set among sites."""

    scheme: Literal["iid", "dirichlet"] = Field(
        "iid", description="iid: equal random shares; dirichlet: shares with unlike classes."
    )
    alpha: Positive = Field(0.1, description="Dirichlet concentration; small means unlike sites.")
    num_clients: Count = Field(1, description="Shares that the data set is split into.")
    index: int = Field(0, ge=0, description="This site's share, from 0.")
    seed: int = Field(0, ge=0, description="The split follows from it: the same at all sites of a trial.")

    @model_validator(mode="after")
    def _index_is_a_part(self) -> PartitionConfig:
        if self.index >= self.num_clients:
            raise ValueError(f"index is {self.index}, but there are {self.num_clients} parts, counted from 0")
        return self


class DataConfig(Config):
    """The private data: `adapter` names an entry point of the group `fedafd.datasets`."""

    adapter: str = Field(
        description="What reads the data: `image-folder`, `parquet` and so on, or one of an installed package (entry"
        " point group `fedafd.datasets`): docs/data.md."
    )
    path: OwnPath | None = Field(None, description="Folder or file with the data; `shapes` needs none.")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="The adapter's own keys, such as the columns of a table: docs/data.md."
    )
    partition: PartitionConfig | None = None
    drop_repeats: bool = Field(
        False, description="Leave out training samples whose content is in the validation or test split, too."
    )


class SharingConfig(Config):
    """What may leave the site beside representations of the public set."""

    personalized_model: bool = Field(False, description="The personalized model, with its class names and vocabulary.")
    weights: bool = Field(False, description="The encoders' weights, for federations that average them.")
    metrics: bool = Field(True, description="Metrics on the own test split, and the number of samples.")
    representation_noise: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Length of the noise that is added to each representation, which has length 1, before it is sent;"
        " 0: none. What it is worth: docs/privacy.md#noise.",
    )


class TlsConfig(Config):
    """TLS to the aggregator. Empty (`tls: {}`) trusts the public authorities and shows no certificate."""

    authorities: OwnPath | None = Field(
        None, description="PEM of the authorities that are trusted; without it the public ones."
    )
    certificate: OwnPath | None = Field(
        None, description="PEM of the certificate to show, where the aggregator asks for one."
    )
    key: OwnPath | None = Field(None, description="PEM of its key, unencrypted.")
    server_name: str | None = Field(
        None, description="Name in the aggregator's certificate; without it the host's name."
    )

    @model_validator(mode="after")
    def _check_pair(self) -> TlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are needed together")
        return self


class DirectUploadConfig(Config):
    """The federation's object store, for uploads that go there themselves."""

    url: OriginUrl = Field(description="The store as your operator names it, such as https://store.example.org:9000.")
    authorities: OwnPath | None = Field(
        None, description="PEM of the authorities trusted for it; null: the public ones."
    )


PlaintextField = Field(
    None,
    description="true: no TLS; whoever sees the traffic can act as this site and reads and changes what it sends and"
    " gets. false: TLS always. null: TLS to all but this machine itself.",
)


class BaselineMode(StrEnum):
    """Who trains the baseline, a site's own model without the federation."""

    OFF = "off"
    BACKGROUND = "background"


class BaseWeightsConfig(Config):
    """Checkpoints at the site that are those of the federation's global encoders."""

    image: HubIdOrFolder | None = Field(None, description="Of the image encoder; null: all of it is downloaded.")
    text: HubIdOrFolder | None = Field(None, description="Of the text encoder; null: all of it is downloaded.")

    def of(self, modality: Modality) -> str | None:
        """Folder or hub id for this modality."""
        return self.image if modality is Modality.IMAGE else self.text

    def named(self, kind: ClientKind) -> tuple[str, ...]:
        """All that a site of this kind uses, each once."""
        names = [self.of(modality) for modality in kind.modalities]
        return tuple(dict.fromkeys(name for name in names if name is not None))


class AgentConfig(Config):
    """`agent.yaml`: one site's agent."""

    aggregator: DialAddress = Field(description="host:port of the aggregator.")
    kind: ClientKind = Field(description="What the private data is: labelled images, labelled texts, or pairs of both.")
    data: DataConfig
    task: TaskConfig | None = Field(
        None, description="What is learned of the labels; null: classification, or retrieval for pairs."
    )
    state_dir: OwnPath = Field(Path("fedafd-agent"), description="Credential, personalized model and cache live here.")
    image_encoder: EncoderConfig | None = None
    text_encoder: EncoderConfig | None = None
    base_weights: BaseWeightsConfig = Field(
        default_factory=BaseWeightsConfig,
        description="Folders or hub ids of checkpoints; what is frozen of a global encoder is taken from them, where it"
        " is the same, and not downloaded; the server sees that they are here:"
        " docs/models.md#a-checkpoint-that-a-site-has.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$",
        description="What trains: auto (the first GPU, else the CPU), cpu, cuda, cuda:N or mps.",
    )
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads for training; null: all cores.")
    share: SharingConfig = SharingConfig()
    policy: PolicyConfig = PolicyConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    baseline: BaselineMode = Field(
        BaselineMode.OFF,
        description="Your model trained alone, to compare with. off: by `fedafd agent baseline` only; background: by"
        " the agent, with time and threads that rounds do not need.",
    )
    tracking: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict,
        description="Trackers that get your losses and metrics, by name, with their options: docs/tracking.md. They"
        " write where you say, by default into state_dir.",
    )
    tls: TlsConfig | None = Field(
        None, description="TLS to the aggregator by these files; null: by what the invitation's token says of it."
    )
    plaintext: bool | None = PlaintextField
    direct_uploads: DirectUploadConfig | None = Field(
        None,
        description="Send uploads to the federation's object store itself, where the aggregator offers it; null: all"
        " goes through the aggregator.",
    )
    metrics_port: int | None = Field(None, ge=1, le=65535, description="Prometheus metrics; null: none.")
    metrics_host: str = Field("127.0.0.1", description="Address that the metrics are served on.")

    @model_validator(mode="after")
    def _check_way_to_store(self) -> AgentConfig:
        direct = self.direct_uploads
        if direct is not None and direct.url.startswith("http:") and not self.plaintext:
            host = urlsplit(direct.url).hostname or ""
            if not is_loopback(host):
                raise ValueError(
                    "direct_uploads.url: http:// shows what is sent to whoever sees the traffic; use https://"
                )
        return self

    @model_validator(mode="after")
    def _budget_covers_what_leaves(self) -> AgentConfig:
        if self.privacy.dp is None:
            return self
        if self.kind is ClientKind.PAIR:
            raise ValueError(
                "privacy.dp: is for image and text clients; a pair client's loss scores each pair against all others of"
                " its batch, so that no sample has a share of its own to bound"
            )
        uncovered = {
            "metrics": "metrics and the number of samples leave without noise",
            "personalized_model": "its gate and its branches are chosen by validation samples without noise",
            "weights": "with them go the names of classes",
        }
        for key, why in uncovered.items():
            if getattr(self.share, key):
                raise ValueError(f"privacy.dp: needs share.{key}: false; {why}")
        return self
