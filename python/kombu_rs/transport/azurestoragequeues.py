"""``azurestoragequeues://``: Azure Storage Queues.

It needs azure-storage-queue, and azure-identity for credentials by name
(``pip install kombu-rs[azurestoragequeues]``). URLs::

    azurestoragequeues://ACCESS_KEY_OR_SAS@https://ACCOUNT.queue.core.windows.net/
    azurestoragequeues://DefaultAzureCredential@https://ACCOUNT.queue.core.windows.net/
    azurestoragequeues://ManagedIdentityCredential@https://ACCOUNT.queue.core.windows.net/
    azurestoragequeues://ACCESS_KEY@http://localhost:10001/devstoreaccount1

The last form is the emulator Azurite.

A queue is a queue of the account; punctuation in its name becomes ``-``. A message is Kombu's JSON.
It is deleted as soon as it was received, so what a process had received and not handled is lost
when the process is killed; a channel that is closed puts it back. Direct and topic exchanges, whose
bindings are known to the connection that declared them; no fanout.

Option in ``transport_options``: ``queue_name_prefix`` (put before the names of all queues).
"""

from __future__ import annotations

import string
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import Any

from ..utils.encoding import safe_str
from ..utils.json import dumps
from ..utils.objects import cached_property
from . import virtual
from ._channels import WithOptions
from ._cloud import identity_name, make_identity, read_payload
from ._libraries import missing

# The client library's errors that mean a lost connection.
_CONNECTION_ERRORS: tuple[type[BaseException], ...] = ()

try:
    from azure.core.exceptions import (
        ResourceExistsError,
        ResourceNotFoundError,
        ServiceRequestError,
        ServiceResponseError,
    )
    from azure.storage.queue import QueueServiceClient
except ImportError:  # the transport says so when it is used
    QueueServiceClient = None
else:
    _CONNECTION_ERRORS = (ServiceRequestError, ServiceResponseError)

__all__ = ("Channel", "Transport")

NAME = "azurestoragequeues"

#: The account that every Azurite has. Its URL does not say the account's name in the host, where
#: the client library looks for it.
AZURITE_ACCOUNT = "devstoreaccount1"

#: Names of queues there are letters, digits and dashes.
CHARS_REPLACE_TABLE = {ord(char): ord("-") for char in string.punctuation}


class Channel(WithOptions):
    """A channel of Azure Storage Queues."""

    #: Kombu's name; nothing reads it.
    domain_format = "kombu%(vhost)s"

    #: The service needs no acknowledgements: see the module.
    no_ack = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._credential, self._url = Transport.parse_uri(self.conninfo.hostname)
        if self.connection._queue_service is None:
            service = QueueServiceClient(account_url=self._url, credential=self._credential)
            # Also the first request: a wrong key or address shows now.
            for queue in service.list_queues():
                self._queue_name_cache[queue["name"]] = None
            self.connection._queue_service = service

    @property
    def queue_service(self) -> Any:
        """The client of the account, one for all channels of a connection."""
        return self.connection._queue_service

    @property
    def _queue_name_cache(self) -> dict[str, Any]:
        # Names of queues that are there, and their clients once they were used.
        return self.connection._queue_name_cache

    @cached_property
    def queue_name_prefix(self) -> str:
        """What goes before the names of all queues."""
        return self.transport_options.get("queue_name_prefix", "")

    def entity_name(self, name: str, table: dict[int, int] = CHARS_REPLACE_TABLE) -> str:
        """Return ``name`` as the service allows it."""
        return safe_str(name).translate(table)

    def _name(self, queue: str) -> str:
        return self.entity_name(self.queue_name_prefix + queue)

    def _ensure_queue(self, queue: str) -> Any:
        """Return the client of a queue, which is made if it is not there."""
        name = self._name(queue)
        known = self._queue_name_cache
        if known.get(name) is None:
            if name not in known:
                with suppress(ResourceExistsError):  # somebody else's, with other metadata
                    self.queue_service.create_queue(name)
            known[name] = self.queue_service.get_queue_client(name)
        return known[name]

    def _on(self, queue: str, operation: Callable[[Any], Any]) -> Any:
        """Do something with a queue, which somebody may have deleted in the meantime."""
        try:
            return operation(self._ensure_queue(queue))
        except ResourceNotFoundError:
            self._queue_name_cache.pop(self._name(queue), None)
            return operation(self._ensure_queue(queue))

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self._ensure_queue(queue)

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete a queue."""
        name = self._name(queue)
        self._queue_name_cache.pop(name, None)
        with suppress(ResourceNotFoundError):
            self.queue_service.delete_queue(name)

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Put a message into a queue."""
        text = dumps(message)
        self._on(queue, lambda client: client.send_message(text))

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        """Take a message from a queue.

        Raises:
            queue.Empty: there is none.
            ValueError: it is not a message of Kombu's. It stays in the queue, and comes again
                after 30 seconds.
        """
        message = self._on(queue, lambda client: client.receive_message())
        if message is None:
            raise Empty()
        payload = read_payload(message.content, self._name(queue))
        self._ensure_queue(queue).delete_message(message)
        return payload

    def _size(self, queue: str) -> int:
        """About how many messages are in a queue; the service does not say it exactly."""
        properties = self._on(queue, lambda client: client.get_queue_properties())
        return properties.approximate_message_count

    def _purge(self, queue: str) -> int:
        """Remove all messages of a queue; returns about how many."""
        size = self._size(queue)
        self._on(queue, lambda client: client.clear_messages())
        return size


class Transport(virtual.Transport):
    """Azure Storage Queues.

    Raises:
        ImportError: azure-storage-queue is not installed.
    """

    Channel = Channel

    polling_interval: float | None = 1
    default_port: int | None = None
    can_parse_url = True

    connection_errors: tuple[type[BaseException], ...] = (
        *virtual.Transport.connection_errors,
        *_CONNECTION_ERRORS,
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        if QueueServiceClient is None:
            raise missing(NAME, "azure-storage-queue", NAME)
        super().__init__(client, **kwargs)
        self._queue_name_cache: dict[str, Any] = {}
        self._queue_service: Any = None

    def close_connection(self, connection: Any) -> None:
        """Close all channels, and the client."""
        super().close_connection(connection)
        service, self._queue_service = self._queue_service, None
        self._queue_name_cache.clear()
        if service is not None:
            service.close()

    @staticmethod
    def _split(uri: str) -> tuple[str, str]:
        # A key may have slashes and at-signs in it; the account's URL has no at-sign.
        credential, _, url = uri.removeprefix(f"{NAME}://").rpartition("@")
        if not (credential and url):
            raise ValueError(
                f"Need a URI like {NAME}://{{SAS or access key}}@{{URL}}, "
                f"{NAME}://DefaultAzureCredential@{{URL}} or "
                f"{NAME}://ManagedIdentityCredential@{{URL}}"
            )
        return credential, url

    @staticmethod
    def parse_uri(uri: str) -> tuple[Any, str]:
        """Return what a URL says: the credential, as the client library wants it, and the account.

        Raises:
            ValueError: it has no credential or no account.
            ImportError: it names a credential, and azure-identity is not installed.
        """
        credential, url = Transport._split(uri)
        identity = identity_name(credential)
        if identity is not None:
            return make_identity(NAME, identity), url
        if AZURITE_ACCOUNT in url:
            return {"account_name": AZURITE_ACCOUNT, "account_key": credential}, url
        return credential, url

    @classmethod
    def as_uri(cls, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return ``uri``, by default with the credential masked.

        Raises:
            ValueError: it has no credential or no account.
        """
        credential, url = cls._split(uri)
        return f"{NAME}://{credential if include_password else mask}@{url}"
