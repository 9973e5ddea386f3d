"""Opens the library and asks the engine for its sizes: what every request of this process needs."""

from argparse import Namespace
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steersman.server.doses import Doses, check_doses_known
from steersman.server.drain import Drain
from steersman.server.metrics import METRICS
from steersman.server.start.calibration import median_norms
from steersman.server.start.fingerprint import calibration_mark, fingerprint
from steersman.server.state import Steersman
from steersman.steering.plan import RECEIPTS, Limits, Settings
from steersman.steering.plan.inbox import WAITING
from steersman.vectors.library.library import Library


async def open_state(
    engine_client: Any, args: Namespace, drain: Drain, *, guarded: bool = True
) -> Steersman:
    """The state of this process. Raises if steering is not possible. `guarded`: from here on the
    engine refuses plans that this process did not write."""
    config = engine_client.vllm_config
    settings = Settings.read(config.additional_config)
    workers = await engine_client.collective_rpc("steering_status")
    num_layers = int(config.model_config.hf_text_config.num_hidden_layers)
    mark = calibration_mark(config)
    medians = await median_norms(
        engine_client, mark, workers[0]["listened"], measure=settings.calibrate
    )
    check_doses_known(medians, settings, keyed=settings.api_keys_file is not None)
    hidden = workers[0]["hidden_size"]
    mark_of_model = fingerprint(config.model_config)
    RECEIPTS.guarded = guarded
    WAITING.show = METRICS.show_waiting
    return Steersman(
        settings=settings,
        limits=replace(
            Limits.of(settings, num_layers),
            sites=tuple(workers[0]["sites"]),
            aliases=tuple(workers[0]["aliases"]),
            operations=tuple(workers[0]["operations"]),
            own_sites=tuple(workers[0]["own_sites"]),
            readout_sites=tuple(workers[0]["readout_sites"]),
            no_gates=workers[0]["no_gates"],
            most_added=workers[0]["most_added"],
        ),
        whole_library=Library(
            Path(settings.library),
            hidden_size=hidden,
            num_layers=num_layers,
            sites=tuple(workers[0]["sites"]),
            max_steps=settings.max_steps,
            fingerprint=mark_of_model,
            require_fingerprint=settings.require_fingerprint,
            most_added=workers[0]["most_added"],
            operations=tuple(workers[0]["operations"]),
            reading_sites=tuple(workers[0]["own_sites"]),
        ),
        all_doses=Doses(medians, settings.max_relative_dose, settings.max_total_dose),
        drain=drain,
        model={
            "id": (args.served_model_name or [args.model])[0],
            "num_layers": num_layers,
            "hidden_size": hidden,
            "fingerprint": mark_of_model,
            "sites": workers[0]["sites"],
            "aliases": workers[0]["aliases"],
            "composes": workers[0]["composes"],
            "captures": workers[0]["captures"],
        },
        version=version("steersman"),
        tokenizer=engine_client.renderer.tokenizer,
    )
