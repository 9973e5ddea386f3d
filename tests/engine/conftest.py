"""Real engines, shared by the tests of one session.

They run inside the test process, so that a batch is the same batch every time; vLLM picks another
executor for servers, which tests/http covers, and `batching_engine` below.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.engine import Engine
from tests.reference.reference import ReferenceModel
from vectors.demo.model import prepare_model
from vectors.format import SteeringVector, write_vector
from vectors.library import Library
