"""Presets as a key sees them: what it may not see is not there."""

from collections.abc import Mapping
from typing import Any, Final

from steersman.server.auth.library_view import LibraryView
from steersman.server.auth.permissions import KeyPermissions
from steersman.server.chat.field import SteeringField, long_form
from steersman.server.chat.steered_request import SteeringContext, resolved
from steersman.server.errors import NotAllowed
from steersman.server.presets.default import Default
from steersman.vectors.errors import PresetConflict, VectorInvalid
from steersman.vectors.library.presets import Preset, PresetStore, Version, preset_not_found

MAX_PRESETS: Final = 10_000
"""Presets that a library may have."""
_NAMED: Final = 10


class PresetView:
    """The methods of `PresetStore` for one key, whose patterns of names hold for presets too.
    Raises what they raise, and for a hidden name what they raise for one that is not there."""

    def __init__(
        self,
        store: PresetStore,
        permissions: KeyPermissions,
        context: SteeringContext,
        default: Default | None = None,
        operators: SteeringContext | None = None,
    ) -> None:
        """`context`: what a request of this key is resolved with, which a new preset has to
        stand. `operators`: the same with all vectors, for presets that the operator has chosen."""
        self._store = store
        self._permissions = permissions
        self.context = context
        self.default = default
        """What steers a request that does not say how."""
        self.operators = operators or context

    @property
    def library(self) -> LibraryView:
        """The vectors that this key sees."""
        return self.context.library

    def get(self, name: str) -> Preset:
        """See `PresetStore.get`."""
        self._check(name)
        return self._store.get(name)

    def of_operator(self, name: str) -> Preset:
        """See `PresetStore.get`, also where the key may not see it."""
        return self._store.get(name)

    def all(self) -> Mapping[str, Preset]:
        """See `PresetStore.all`."""
        found = self._store.all()
        if self._permissions.sees_all:
            return found
        return {name: one for name, one in found.items() if self._permissions.sees(name)}

    def add(
        self, name: str, steering: Any, *, follow: bool, description: str
    ) -> tuple[Preset, bool]:
        """See `PresetStore.add`. Raises `NotAllowed` for a name outside the key's patterns, and
        what a request with this `steering` raises."""
        self.library.check_may_name(name)
        if len(self._store.all()) >= MAX_PRESETS:
            raise NotAllowed(
                f"the library has {MAX_PRESETS} presets, its limit; delete some",
                param="name",
                code="library_limit",
            )
        version = self._version(steering, follow=follow)
        return self._store.add(name, version, description, self._permissions.name or None)

    def update(
        self, name: str, steering: Any, *, follow: bool | None, description: str | None
    ) -> Preset:
        """See `PresetStore.update`; None leaves what is. A preset that is pinned is pinned anew
        where `steering` or `follow` is given."""
        self._check(name)
        version = None
        if steering is not None or follow is not None:
            old = self._store.get(name)
            follows = old.follow if follow is None else follow
            written = dict(old.now.steering) if steering is None else steering
            version = self._version(written, follow=follows)
        return self._store.update(name, version, description)

    def delete(self, name: str) -> None:
        """See `PresetStore.delete`."""
        self._check(name)
        self._store.delete(name)

    def check_unused(self, vector: str) -> None:
        """Raise `PresetConflict`, naming the presets that this key sees, where one names
        `vector`."""
        users = self._store.naming(vector)
        if not users:
            return
        seen = [name for name in users if self._permissions.sees(name)]
        named = [", ".join(seen[:_NAMED])] if seen else []
        if len(users) > len(seen[:_NAMED]):
            named.append(f"{len(users) - len(seen[:_NAMED])} more")
        raise PresetConflict(
            f"vector {vector!r} is used by presets: {' and '.join(named)}; change or delete those "
            "first, or add ?force=true, and they answer 404 from then on",
            param="id",
            code="vector_in_use",
        )

    def _version(self, steering: Any, *, follow: bool) -> Version:
        """What a preset with this `steering` stands for. Raises what a request with it would
        raise."""
        field = SteeringField.read(steering)
        if field.reads is not None:
            raise VectorInvalid(
                "a preset says how to steer; leave `read` out, and send it with each request",
                param="steering.read",
                code="not_supported",
            )
        for n, use in enumerate(field.uses):
            if use.data is not None:
                raise VectorInvalid(
                    "a preset names vectors and cannot hold one: upload it, and send its `id`",
                    param=f"steering.vectors[{n}].data",
                    code="not_supported",
                )
        made = resolved(self.context, steering)
        gates = [part["gate"] for part in made.draft if "gate" in part]
        pins = () if follow else tuple(part["digest"] for part in [*made.draft, *gates])
        return Version({**steering, "vectors": long_form(steering["vectors"])}, pins)

    def _check(self, name: str) -> None:
        if not self._permissions.sees(name):
            raise preset_not_found(name)
