"""The library as a key sees it: vectors that the key may not see do not exist for it."""

from typing import Any

from steersman.server.auth.permissions import INLINE, KeyPermissions
from steersman.server.errors import NotAllowed
from steersman.server.library.sent import Inline
from steersman.vectors.library.entry import StoredVector
from steersman.vectors.library.library import Entries, Entry, Library
from steersman.vectors.library.names import check_is_name, not_found, parse_id
from steersman.vectors.library.ownership import Records


class LibraryView:
    """The methods of `Library` that requests use, for one key. They raise what `Library`'s raise; a
    hidden name gives exactly the error of a missing one."""

    def __init__(
        self,
        library: Library,
        permissions: KeyPermissions,
        max_vectors: int,
        inline: Inline | None = None,
    ) -> None:
        """`max_vectors`: the most names in the library, over all keys. `inline`: reads vectors in
        requests; None: the server takes none."""
        self._library = library
        self._permissions = permissions
        self._max_vectors = max_vectors
        self._inline = inline

    @property
    def operations(self) -> tuple[str, ...]:
        """What the key may do with vectors."""
        return self._permissions.operations

    def resolve(self, vector_id: str) -> Entry:
        """See `Library.resolve`."""
        self._check(vector_id)
        return self._library.resolve(vector_id)

    def read_inline(self, text: str, param: str) -> Entry:
        """See `Inline.read`. Raises `NotAllowed` where the server, or this key, may not."""
        if self._inline is None:
            raise NotAllowed(
                "this server takes no vectors in requests (--no-inline-vectors); upload it to "
                "/v1/steering/vectors and send its `id`",
                param=param,
                code="inline_vectors_off",
            )
        if not self._permissions.may(INLINE):
            raise NotAllowed(
                f"this key may not send vectors in requests; it needs the scope {INLINE}. Name a "
                "vector by its `id`",
                param=param,
                code="scope_missing",
            )
        return self._inline.read(text, param)

    def check_fits(self, vector: StoredVector | Entry, param: str | None = None) -> None:
        """See `Library.check_fits`."""
        self._library.check_fits(vector, param)

    def page(self, after: str | None, limit: int, fits: bool | None = None) -> tuple[Entries, bool]:
        """See `Library.page`."""
        return self._library.page(after, limit, self._permissions.sees, fits)

    def names(self) -> tuple[str, ...]:
        """See `Library.names`."""
        return tuple(name for name in self._library.names() if self._permissions.sees(name))

    def list(self) -> Entries:
        """See `Library.list`."""
        return [entry for entry in self._library.list() if self._permissions.sees(entry.name)]

    def content_path(self, entry: Entry) -> Any:
        """See `Library.content_path`."""
        return self._library.content_path(entry)

    def add(self, data: bytes, name: str | None = None) -> tuple[Entry, bool]:
        """See `Library.add`. Raises `NotAllowed` for a name that does not match the key's patterns,
        and if the key or the library has reached its number of vectors."""
        owner = self._permissions.name or None
        return self._library.add(data, name, owner=owner, admit=self._admit)

    def update(self, name: str, **changes: Any) -> Entry:
        """See `Library.update`."""
        check_is_name(name)
        self._check(name)
        visible = None if self._permissions.sees_all else self._permissions.sees
        return self._library.update(name, **changes, visible=visible)

    def delete(self, name: str) -> None:
        """See `Library.delete`."""
        check_is_name(name)
        self._check(name)
        self._library.delete(name)

    def check_may_name(self, name: str) -> None:
        """Raise `NotAllowed` if the key may not make a vector with this `name`."""
        if not self._permissions.sees(name):
            raise NotAllowed(
                f"this key is for names that match {', '.join(self._permissions.vectors)}, and "
                f"{name!r} does not; choose another name",
                param="name",
                code="name_not_allowed",
            ) from None

    def _check(self, vector_id: str) -> None:
        name = parse_id(vector_id).name
        if not self._permissions.sees(name):
            raise not_found(name)

    def _admit(self, name: str, records: Records) -> None:
        self.check_may_name(name)
        if name in records:
            return
        own, most = self._permissions.name or None, self._permissions.max_vectors
        if most is not None and sum(r.owner == own for r in records.values()) >= most:
            raise NotAllowed(
                f"this key has made {most} vectors, its limit (max_vectors); delete some",
                param="name",
                code="too_many_vectors",
            )
        if len(records) >= self._max_vectors:
            raise NotAllowed(
                f"the library has {self._max_vectors} vectors, its limit; delete some, or "
                "start the server with a higher --max-library-vectors",
                param="name",
                code="library_limit",
            )
