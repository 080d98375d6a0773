"""All that an agent sends, field by field: the one table behind docs/privacy.md and `fedafd agent explain`.

A test compares it with the wire's definition: a field without a row, or a row without a field, fails it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["BLOBS", "MESSAGES", "USES", "Leaving", "Use"]


class Leaving(NamedTuple):
    """A field or a blob that leaves."""

    name: str
    holds: str
    when: str
    needs: Literal["", "metrics", "personalized_model", "weights"] = ""
    """The key of `share` in agent.yaml without which it does not leave."""


MESSAGES = (
    Leaving(
        "EnrollRequest.token",
        "the invitation's one-time token",
        "at the first start, and when a new invitation is taken",
    ),
    Leaving("EnrollRequest.kind", "image, text or pair", "with it"),
    Leaving("EnrollRequest.software", "the agent's version", "with it"),
    Leaving("EnrollRequest.nonce", "32 random bytes, so that a lost answer can be asked for again", "with it"),
    Leaving(
        "EnrollRequest.certificate_request",
        "the public half of a key that the agent made, signed by the key, without names; the key stays",
        "with it",
    ),
    Leaving("RenewCertificateRequest.certificate_request", "the same", "every 15 days"),
    Leaving("SoftwareVersion.major", "a number of it", "with it"),
    Leaving("SoftwareVersion.minor", "a number of it", "with it"),
    Leaving("SoftwareVersion.patch", "a number of it", "with it"),
    Leaving("FetchTaskRequest.wait", "how long the answer may take", "while the agent runs, about twice a minute"),
    Leaving("FetchTaskRequest.known_revision", "the answer's number that the agent has already", "with it"),
    Leaving("ReportProgressRequest.round_id", "the round's id", "while a round is worked on, at most once a second"),
    Leaving("ReportProgressRequest.fraction", "done share, 0 to 1, in whole percents", "with it"),
    Leaving(
        "ReportProgressRequest.doing",
        "downloading, reading data, training, calibrating, representing, evaluating, uploading, waiting for its disk",
        "with it",
    ),
    Leaving("ReportProgressRequest.step", "number of the epoch or file", "with it"),
    Leaving("ReportProgressRequest.steps", "how many epochs or files", "with it"),
    Leaving("ReportProgressRequest.alive_only", "that the process lives", "every ten seconds of a round"),
    Leaving(
        "ReportProgressRequest.work_done",
        "how often the agent has told of work that went on since it started, which is no number of samples",
        "with `fraction`",
    ),
    Leaving("BeginUploadRequest.round_id", "the round's id", "before each upload"),
    Leaving(
        "BeginUploadRequest.upload_purpose",
        "representations, personalized model or weights; of a region merged states",
        "with it",
    ),
    Leaving("BeginUploadRequest.sha256", "hash of the blob", "with it"),
    Leaving("BeginUploadRequest.size_bytes", "its length", "with it"),
    Leaving("BeginUploadRequest.chunk_size_bytes", "length of its chunks", "with it"),
    Leaving("BeginUploadRequest.chunk_sha256", "their hashes", "with it"),
    Leaving("BeginUploadRequest.direct", "whether the blob may go to the object store itself", "with it"),
    Leaving("UploadChunksRequest.upload_id", "id of the upload, from the aggregator", "with each chunk"),
    Leaving("UploadChunksRequest.index", "the chunk's number", "with each chunk"),
    Leaving("UploadChunksRequest.data", "the blob's bytes: see below", "with each chunk"),
    Leaving("CommitUploadRequest.round_id", "the round's id", "once a round"),
    Leaving("CommitUploadRequest.upload_ids", "ids of its uploads, from the aggregator", "with it"),
    Leaving(
        "CommitUploadRequest.metrics",
        "metrics of a fixed list, finite",
        "with it, unless `share.metrics` is false",
        "metrics",
    ),
    Leaving(
        "CommitUploadRequest.num_private_samples",
        "number of private training samples",
        "with it, unless `share.metrics` is false",
        "metrics",
    ),
    Leaving(
        "DescribeArtifactRequest.sha256", "hash of what the task names", "before a bundle of which an older one is here"
    ),
    Leaving("DownloadArtifactRequest.sha256", "hash of what the task names", "before each download"),
    Leaving(
        "DownloadArtifactRequest.damaged",
        "that what came before under this hash had another one",
        "with a download that is repeated for it",
    ),
    Leaving("DownloadArtifactRequest.offset_bytes", "how much of it is here", "with it"),
    Leaving("DownloadArtifactRequest.ranges", "which parts of it are asked for, as some are here", "with it"),
    Leaving("ByteRange.offset_bytes", "where such a part begins", "with it"),
    Leaving("ByteRange.length_bytes", "how long it is", "with it"),
    Leaving("LeaveRoundRequest.round_id", "the round's id", "when the site cannot take part"),
    Leaving("LeaveRoundRequest.leave_reason", "a code: see below", "with it"),
    Leaving(
        "LeaveRoundRequest.num_affected",
        "how many samples, files or values it is about",
        "with it, unless `share.metrics` is false",
        "metrics",
    ),
)

BLOBS = (
    Leaving(
        "representations",
        "one unit vector per public sample and modality, with noise where `share.representation_noise` asks for it, the"
        " public set's hash",
        "once a round",
    ),
    Leaving(
        "personalized model",
        "the model's folder: weights, vocabulary (with words of private texts), names of classes,"
        " `intensity_range`, a card with its metrics unless `share.metrics` is false",
        "once a round, only with `share.personalized_model: true` where the federation takes them",
        "personalized_model",
    ),
    Leaving(
        "weights",
        "the encoders' and head's weights, a hash of what they fit, the number of private samples unless"
        " `share.metrics` is false",
        "once a round, only with `share.weights: true` where the federation averages them",
        "weights",
    ),
)


class Use(NamedTuple):
    """Why a message or a blob leaves, who reads it, and how long the federation keeps it."""

    name: str
    why: str
    readers: str
    kept: str


USES = (
    Use(
        "EnrollRequest",
        "to become a client, bound to a key that stays at the site",
        "the aggregator; viewers see kind and version",
        "hashes of token and key until another invitation; kind and version with the client",
    ),
    Use(
        "RenewCertificateRequest",
        "to go on being that client",
        "the aggregator",
        "the certificate's end with the client; the audit log",
    ),
    Use(
        "FetchTaskRequest",
        "to hear of rounds",
        "the aggregator; viewers see when the agent was last there",
        "the newest moment alone",
    ),
    Use(
        "ReportProgressRequest",
        "so that a round waits for who works, and for nobody else",
        "the aggregator and viewers",
        "the last report with its round",
    ),
    Use(
        "BeginUploadRequest",
        "so that a broken upload goes on, and damage is found",
        "the aggregator",
        "until the round's uploads are removed, or the client is forgotten",
    ),
    Use(
        "UploadChunksRequest",
        "to bring the blob",
        "see blobs",
        "see blobs",
    ),
    Use(
        "CommitUploadRequest",
        "to compare models, and to weigh sites where weights are averaged",
        "the aggregator, distillers and viewers",
        "until the client is forgotten",
    ),
    Use(
        "DescribeArtifactRequest",
        "so that only what changed comes down",
        "the aggregator",
        "nothing but how many bytes went, with the round",
    ),
    Use(
        "DownloadArtifactRequest",
        "to get what the round needs",
        "the aggregator",
        "nothing but how many bytes went, with the round",
    ),
    Use(
        "LeaveRoundRequest",
        "so that the round need not wait, and its operator knows whom to ask",
        "the aggregator and viewers",
        "code and count with the round, and in the audit log",
    ),
    Use(
        "EndSessionRequest",
        "so that the site's next agent may begin at once",
        "the aggregator",
        "nothing",
    ),
    Use(
        "representations",
        "to teach the global model what the site's model sees in public samples",
        "distillers; nobody over REST",
        "until the round is over, if the federation does not keep deliveries; in the ensemble of all sites until the"
        " next round",
    ),
    Use(
        "personalized model",
        "so that the federation keeps a copy for the site",
        "administrators, and the client's own key",
        "until newer ones are there (`retention.keep_models`), or the client is forgotten",
    ),
    Use(
        "weights",
        "to be averaged",
        "distillers; nobody over REST",
        "as representations",
    ),
)
