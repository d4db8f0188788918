"""Photos that installed packages carry: something to look at before the first upload, without internet.

They lie inside scikit-image and scikit-learn, which are installed anyway. Their files are read directly, which spares
the first screen the import of two large packages. An ImageNet network was trained on objects in colour, so the photos
near the top suit it. At the end stand grey textures, whose answers say more about the network than about the picture.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cnnviz_core import images
from cnnviz_core.errors import BadImage, did_you_mean


@dataclass(frozen=True)
class Photo:
    """One bundled photo.

    Attributes:
        title: What to call it on screen.
        caption: One line: what it shows and why a network makes it worth a look.
        package: The package that carries it, as one installs it.
        file: Its file name there.
    """

    title: str
    caption: str
    package: str
    file: str


# The first is what the app opens with; the first eight make a picker.
PHOTOS: dict[str, Photo] = {
    "chelsea": Photo(
        "Chelsea the cat",
        "A cat's face, close up. ImageNet has several kinds of cat: see which details tell them apart.",
        "scikit-image",
        "chelsea.png",
    ),
    "coffee": Photo(
        "A cup of espresso",
        "One clear object on a wooden table. Is it the cup or the coffee that decides?",
        "scikit-image",
        "coffee.png",
    ),
    "astronaut": Photo(
        "Eileen Collins, astronaut",
        "A portrait with a space suit, a flag and a shuttle model. ImageNet has no class for a person's job.",
        "scikit-image",
        "astronaut.png",
    ),
    "flower": Photo(
        "A dahlia",
        "Repeating petals before a blurred background. ImageNet has no dahlia, so look for the nearest class it has.",
        "scikit-learn",
        "flower.jpg",
    ),
    "motorcycle_left": Photo(
        "Motorcycle, left eye",
        "A busy garage with wheels, chrome and lettering. The right eye's view shows it from a few centimetres beside.",
        "scikit-image",
        "motorcycle_left.png",
    ),
    "china": Photo(
        "A Chinese tower",
        "Roofs, trees and a lake. Several classes of buildings compete, and the landscape may lend a hand.",
        "scikit-learn",
        "china.jpg",
    ),
    "rocket": Photo(
        "A rocket at dusk",
        "A slim rocket between lattice towers and lights. The object fills little of the picture.",
        "scikit-image",
        "rocket.jpg",
    ),
    "camera": Photo(
        "A man with a camera",
        "Black and white. A network trained on colour has to go by shape: the tripod is plain to see.",
        "scikit-image",
        "camera.png",
    ),
    "motorcycle_right": Photo(
        "Motorcycle, right eye",
        "The same motorcycle seen from a few centimetres beside: do the same parts count, at the same places?",
        "scikit-image",
        "motorcycle_right.png",
    ),
    "brick": Photo(
        "Bricks",
        "A regular texture without an object. Feature maps of early layers show its edges and their directions.",
        "scikit-image",
        "brick.png",
    ),
    "grass": Photo(
        "Grass",
        "Fine lines in all directions, no object. No class is right, so any confident answer would be a mistake.",
        "scikit-image",
        "grass.png",
    ),
    "gravel": Photo(
        "Gravel",
        "Many alike blobs of one size. Units that like blobs answer all over the picture.",
        "scikit-image",
        "gravel.png",
    ),
}

_FOLDERS = {"scikit-image": ("skimage", "data"), "scikit-learn": ("sklearn", "datasets/images")}


@lru_cache(maxsize=len(PHOTOS))
def open_photo(photo_id: str) -> images.InputImage:
    """A bundled photo, decoded once per process.

    Args:
        photo_id: A key of :data:`PHOTOS`.

    Raises:
        BadImage: No photo of that name, or the package that carries it is missing or came without its data.
    """
    if photo_id not in PHOTOS:
        raise BadImage(f"There is no bundled photo {photo_id!r}.{did_you_mean(photo_id, PHOTOS)}")
    photo = PHOTOS[photo_id]
    return images.open_image(path_of(photo), name=photo.title)


def path_of(photo: Photo) -> Path:
    """Where a photo lies inside the package that carries it, found without importing the package.

    Raises:
        BadImage: The package is missing.
    """
    module, folder = _FOLDERS[photo.package]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise BadImage(f"The photo {photo.title} lies inside {photo.package}; install that package.")
    return Path(spec.origin).parent / folder / photo.file
