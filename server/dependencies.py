"""FastAPI dependencies of the routes: the library, the doses and the limits of the caller's key.

No route gets the server's whole library, nor the state that holds it.
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request

from steersman.server.auth.caller import caller
from steersman.server.auth.library_view import LibraryView
from steersman.server.doses import Doses
from steersman.server.extraction.context import ExtractionContext
from steersman.server.extraction.jobs import Jobs
from steersman.server.patching.run import PatchContext
from steersman.server.presets.view import PresetView

OnChange = Callable[..., None]
"""(event, name, digest), in a thread, after "created", "updated" and "deleted"; and "preset" as a
fourth if that is what has changed."""


async def library_view(request: Request) -> LibraryView:
    """The library, as the caller sees it."""
    view: LibraryView = _state(request).library_for(caller().permissions)
    return view


async def preset_view(request: Request) -> PresetView:
    """The presets, as the caller sees them."""
    view: PresetView = _state(request).presets_for(caller().permissions)
    return view


async def callers_doses(request: Request) -> Doses:
    """Relative doses, with the caller's limits."""
    doses: Doses = _state(request).doses_for(caller().permissions)
    return doses


async def extraction_context(request: Request) -> ExtractionContext:
    """What extraction jobs need, with the library as the caller sees it."""
    context: ExtractionContext = _state(request).extraction_for(caller().permissions)
    return context


async def patch_context(request: Request) -> PatchContext:
    """What patching jobs need, within the caller's limits."""
    context: PatchContext = _state(request).patching_for(caller().permissions)
    return context


async def max_extract_rows(request: Request) -> int:
    """The most texts of one extraction of the caller."""
    most: int = _state(request).max_extract_rows_for(caller().permissions)
    return most


async def activation_bytes(request: Request) -> int | None:
    """The most activations that a request gets; None: nobody gets any."""
    settings = _state(request).settings
    most: int = settings.max_activation_bytes
    return most if settings.allow_activations else None


async def capabilities(request: Request) -> dict[str, Any]:
    """The fields of `Capabilities`, with the caller's limits."""
    found: dict[str, Any] = _state(request).capabilities_for(caller().permissions)
    return found


async def jobs(request: Request) -> Jobs:
    """All jobs of the library. The route must check which of them the caller may see."""
    found: Jobs = _state(request).jobs
    return found


async def on_change(request: Request) -> OnChange:
    """The function that a route must call after each change of the library."""
    call: OnChange = _state(request).on_change
    return call


async def max_upload_bytes(request: Request) -> int:
    """The largest file of an upload, in bytes."""
    most: int = _state(request).max_upload_bytes
    return most


def _state(request: Request) -> Any:
    return request.app.state.steersman


CallersLibrary = Annotated[LibraryView, Depends(library_view)]
CallersPresets = Annotated[PresetView, Depends(preset_view)]
CallersDoses = Annotated[Doses, Depends(callers_doses)]
CallersExtraction = Annotated[ExtractionContext, Depends(extraction_context)]
CallersPatching = Annotated[PatchContext, Depends(patch_context)]
MaxExtractRows = Annotated[int, Depends(max_extract_rows)]
ActivationBytes = Annotated[int | None, Depends(activation_bytes)]
MaxUploadBytes = Annotated[int, Depends(max_upload_bytes)]
CapabilityFields = Annotated[dict[str, Any], Depends(capabilities)]
AllJobs = Annotated[Jobs, Depends(jobs)]
ChangeListener = Annotated[OnChange, Depends(on_change)]
