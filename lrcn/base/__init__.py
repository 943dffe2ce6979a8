"""What all modules have at hand: the user's error, and modules that are imported when they are used."""
from lrcn.base.cli import UserError
from lrcn.base.lazy import Lazy, inference_mode

__all__ = ["Lazy", "UserError", "inference_mode"]
