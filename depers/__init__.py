"""depers: remove personal data from photographs at archive scale, and build the detector that finds it."""

__version__ = "0.1.0"
