"""What can go wrong, in words for the person at the screen.

::

    CnnvizError
    ├── BadImage            a picture that cannot or must not be decoded
    ├── BadCheckpoint       a weights file that cannot be read safely or does not fit the architecture
    ├── BadCollection       a folder, ZIP or data set that cannot be opened as a collection of pictures
    ├── BadSetting          a CNNVIZ_* variable or an argument outside its range
    ├── BadLink             a link or manifest that leads to no screen
    ├── UnknownModel        no network of that name in the catalogue
    ├── UnknownLayer        no layer of that name in the network
    ├── WeightsUnavailable  the weights are not on this machine and could not be fetched
    ├── OutOfMemory         what was asked for takes more memory than there is
    ├── NotAllowed          what this person may not do on this server
    └── NotApplicable       the method is not defined for this network; says what to use instead

Every message names the input and the remedy. The app shows these and nothing else: any other exception is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CnnvizError(Exception):
    """Base of all errors that a person can act on."""


class BadImage(CnnvizError):
    """A picture that cannot or must not be decoded."""


class BadCheckpoint(CnnvizError):
    """A weights file that cannot be read safely or does not fit the architecture."""


class BadCollection(CnnvizError):
    """A folder, ZIP or data set that cannot be opened as a collection of pictures."""


class BadSetting(CnnvizError):
    """A setting or argument outside its range."""


class BadLink(CnnvizError):
    """A link or manifest that leads to no screen."""


class UnknownModel(CnnvizError):
    """No network of that name in the catalogue."""


class UnknownLayer(CnnvizError):
    """No layer of that name in the network."""


class WeightsUnavailable(CnnvizError):
    """The weights are not on this machine and could not be fetched."""


class OutOfMemory(CnnvizError):
    """What was asked for takes more memory than there is."""


class NotAllowed(CnnvizError):
    """Something that the person at the screen may not do on this server."""


class NotApplicable(CnnvizError):
    """The method is not defined for this network."""


def checked_seed(seed: int) -> int:
    """A seed, where every generator of random numbers takes it.

    Raises:
        BadSetting: A number below 0 or of more than 62 bits.
    """
    if not 0 <= seed < 2**62:
        raise BadSetting(f"The seed is {seed}; choose a whole number from 0 up, of at most 18 digits.")
    return seed


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence part naming the closest known names, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f" Did you mean {' or '.join(near)}?" if near else ""
