"""Errors of retrieval and of the documents it is given."""

from workers.errors import WorkerError


class RetrievalError(WorkerError):
    """Anything in here that cannot be done."""


class ModelUnavailable(RetrievalError):
    """The embedding model cannot be loaded; the message says what to install or set."""


class EmbedderClosed(RetrievalError):
    """The embedder was closed before or while it had this text."""


class DocumentError(RetrievalError):
    """A document cannot become knowledge; the message says what to change."""


class UnsupportedDocument(DocumentError):
    """Its file type cannot be read."""


class UnreadableDocument(DocumentError):
    """The file cannot be opened, or its bytes are not UTF-8 text."""


class EmptyDocument(DocumentError):
    """It has no text."""


class DocumentTooLarge(DocumentError):
    """It would not fit into one record of the knowledge topic."""


class InvalidDocumentField(DocumentError):
    """Its id or its link breaks a rule."""
