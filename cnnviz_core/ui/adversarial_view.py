"""The parts of the page of fooling images: what is asked, the altered picture, and the way to it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import streamlit as st

from cnnviz_core import images, render
from cnnviz_core.images import InputImage
from cnnviz_core.methods import adversarial
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import AdversarialExample, EpsilonSearch
from cnnviz_core.ui import charts, compute, frame, pickers, show, work
from cnnviz_core.ui.pickers import Selection

_ANY = -1
# A class that nearly every network with ImageNet's classes has and hardly any photo shows.
_FIRST_TARGET = "goldfish"

# What takes longer goes to the queue, with progress and a cancel; what takes few steps starts by itself there, too.
_QUICK_SECONDS, _FEW_STEPS = 5.0, 20

_PICTURE_PX = 448
_SO_FAR_PX = 300
_NUM_ANSWERS = 5


@dataclass(frozen=True)
class Bound:
    """How the bound is asked for, in 255ths.

    Attributes:
        most: The slider's end.
        largest: The largest bound of a search.
    """

    most: int
    largest: int


_BOUNDS: Mapping[str, Bound] = {"linf": Bound(32, 64), "l2": Bound(2550, 2048)}


# ---- what is asked ------------------------------------------------------------------------------------------------


def make(chosen: Selection) -> AdversarialExample:
    """Asks what is to be made and how, and makes it."""
    with st.container():  # one place on the page, so that what follows stays where it is while a job comes and goes
        task = st.segmented_control(
            "Make",
            list(TASKS),
            default=next(iter(TASKS)),
            key="make",
            required=True,
            bind="query-params",
            help="  \n".join(f"**{name}**: {one.help}" for name, one in TASKS.items()),
        )
        return TASKS[str(task)].make(chosen)


def _alter(chosen: Selection) -> AdversarialExample:
    """The picture altered as asked."""
    with frame.row():
        target = _target(chosen, may_be_any=True)
        method = _method(list(adversarial.METHODS))
        settings = {"method": method, "target": target, **_bound(method)}
        steps = _steps(method)
        settings |= {"steps": steps, "seed": _seed(adversarial.METHODS[method].uses)}
    seconds = (1 + steps) * compute.run(adversarial.estimate_seconds, chosen.model, chosen.image)
    if seconds <= _QUICK_SECONDS:
        return compute.run(adversarial.attack, chosen.model, chosen.image, **settings)
    found: AdversarialExample | None = _job(
        adversarial.attack,
        chosen.model,
        chosen.image,
        title=adversarial.METHODS[method].title,
        cost=f"{steps} steps: about {work.duration(seconds)}.",
        at_once=steps <= _FEW_STEPS,
        **settings,
    )
    return found or _one_step(chosen, target, settings.get("norm", "linf"), settings.get("epsilon"))


def _search(chosen: Selection) -> AdversarialExample:
    """The picture altered as little as suffices."""
    bounded = [name for name, method in adversarial.METHODS.items() if method.is_bounded]
    with frame.row():
        target = _target(chosen, may_be_any=True)
        method = _method(bounded)
        norm = _norm()
        steps = _steps(method)
        seed = _seed(adversarial.METHODS[method].uses)
    most = _BOUNDS[norm].largest
    seconds = steps * compute.run(adversarial.estimate_seconds, chosen.model, chosen.image)
    found: EpsilonSearch | None = _job(
        adversarial.smallest_epsilon,
        chosen.model,
        chosen.image,
        title="Smallest ε",
        cost=f"Attacks with ε 1, 2, 4... up to {most} until one succeeds, then in between; about "
        f"{work.duration(seconds)} each.",
        method=method,
        target=target,
        norm=norm,
        steps=steps,
        most=most,
        seed=seed,
    )
    if found is None:
        return _one_step(chosen, target, norm, None)
    _say_smallest(found)
    return found.best


def _from_noise(chosen: Selection) -> AdversarialExample:
    """A picture of nothing that is a class to the network."""
    with frame.row():
        target = _target(chosen, may_be_any=False)
        seed = _seed(("seed",))
    found: AdversarialExample | None = _job(
        adversarial.from_noise,
        chosen.model,
        None,
        title="From noise",
        cost="At most 200 steps, until the network is 99 % sure.",
        at_once=True,
        target=target,
        seed=seed,
    )
    if found is None:
        st.caption("Below: the noise that it starts from.")
        return compute.run(adversarial.from_noise, chosen.model, target=target, seed=seed, steps=0)
    return found


@dataclass(frozen=True)
class Task:
    """One of the things that the page makes.

    Attributes:
        help: What it is, in a sentence.
        make: Asks for its settings and makes it.
    """

    help: str
    make: Callable[[Selection], AdversarialExample]


TASKS: Mapping[str, Task] = {
    "alter this picture": Task("Change the picture within a bound, so that the answer becomes another.", _alter),
    "find the smallest ε": Task("Search for the smallest bound that suffices.", _search),
    "start from noise": Task("Turn random pixels into something that is a class to the network only.", _from_noise),
}


def _target(chosen: Selection, *, may_be_any: bool) -> int | None:
    """The class to reach; None for any other."""
    model = chosen.model
    answer = compute.run(LoadedModel.predict, model, chosen.image, k=1).indices[0]
    named = [index for index, name in enumerate(model.class_names) if name == _FIRST_TARGET and index != answer]
    first = (*named, _ANY) if may_be_any else (*named, 0)
    target: int = pickers.choose(
        "To be seen as",
        [*([_ANY] if may_be_any else []), *range(model.num_classes)],
        key="seen_as" if may_be_any else "class_from_noise",
        default=first[0],
        name=lambda index: "anything else" if index == _ANY else f"{index} {model.class_names[index]}",
        of=model.spec.weights_hash,
        help="The class that the network shall answer. “Anything else” is easier: any wrong answer will do. Type to "
        "search all classes.",
    )
    return None if target == _ANY else target


def _method(offered: Sequence[str]) -> str:
    return pickers.choose(
        "Method",
        list(offered),
        key="attack",
        name=lambda name: adversarial.METHODS[name].title,
        help="  \n".join(f"**{m.title}** ({m.source}): {m.help}" for m in adversarial.METHODS.values()),
    )


def _norm() -> str:
    return pickers.choose(
        "Bound on",
        list(adversarial.NORMS),
        key="norm",
        name=lambda name: adversarial.NORMS[name].title,
        help="  \n".join(f"**{norm.title}**: {norm.help}" for norm in adversarial.NORMS.values()),
    )


def _bound(method: str) -> dict[str, Any]:
    """Norm and size of the bound; nothing for a method without one."""
    if not adversarial.METHODS[method].is_bounded:
        return {}
    norm = _norm()
    first = int(adversarial.NORMS[norm].default)
    epsilon = st.slider(
        "ε, in 255ths",
        1,
        _BOUNDS[norm].most,
        first,
        key=f"epsilon_{norm}",
        bind="query-params",
        help="The bound, in steps of a picture file: from black to white are 255. People hardly see a change of 2 "
        "at each value. A length counts all values together: 255 is the length of a single one from black to white.",
    )
    return {"norm": norm, "epsilon": epsilon}


def _steps(method: str) -> int:
    first, most = adversarial.METHODS[method].steps, adversarial.METHODS[method].most_steps
    if most == 1:
        return 1
    pickers.start_again("attack_steps", method, first)
    return int(
        st.slider(
            "Steps",
            0,
            200,
            first,
            key="attack_steps",
            bind="query-params",
            help="Forwards and backwards through the network. More steps find more. With none the picture stays as it "
            "is.",
        )
    )


def _seed(uses: Sequence[str]) -> int:
    """The seed of what is drawn; 0 where nothing is."""
    if "seed" not in uses:
        return 0
    return int(
        st.number_input(
            "Seed",
            0,
            9999,
            0,
            key="attack_seed",
            bind="query-params",
            width=110,
            help="Of the random start; the same again.",
        )
    )


def _one_step(chosen: Selection, target: int | None, norm: str, epsilon: float | None) -> AdversarialExample:
    """What is on screen while what was asked for is not there."""
    found = compute.run(
        adversarial.attack, chosen.model, chosen.image, method="fgsm", target=target, norm=norm, epsilon=epsilon
    )
    bound = render.format_value(found.epsilon or 0.0)
    st.caption(f"Below: a single step (FGSM) with ε = {bound}/255, until what you asked for is there.")
    return found


def _job(
    function: Callable[..., Any],
    model: LoadedModel,
    image: InputImage | None,
    *,
    title: str,
    cost: str,
    at_once: bool = False,
    **settings: Any,
) -> Any | None:
    """As :func:`work.until_done`, of a function that takes a network and may take a picture."""
    return work.until_done(
        lambda on_step: function(model, *([image] if image else []), on_step=on_step, **settings),
        key=work.key_of(function, model, image, settings),
        name="adversarial",
        title=title,
        cost=cost,
        show=_so_far,
        at_once=at_once,
        hint="Choose fewer steps or a smaller network",
        about=work.described(model, image, settings),
    )


def _so_far(partial: AdversarialExample | EpsilonSearch) -> None:
    """The altered picture as it is by now, and its answer."""
    found = partial.best if isinstance(partial, EpsilonSearch) else partial
    # In the page itself, not a picture file: those go when the next one comes.
    jpeg = base64.b64encode(render.jpeg(show.enlarged_pixels(found.altered, _SO_FAR_PX), quality=92)).decode()
    with st.container(key="adversarial_so_far"):
        st.image(f"data:image/jpeg;base64,{jpeg}", width=_SO_FAR_PX)
    st.caption(f"So far: {_answer(found.after.labels[0], found.after.probabilities[0])}")


def _say_smallest(found: EpsilonSearch) -> None:
    tried = sorted(zip(found.epsilons.tolist(), found.fools.tolist(), strict=True))
    failed, worked = (", ".join(str(e) for e, fools in tried if fools is wanted) or "none" for wanted in (False, True))
    said = (
        f"No ε up to {max(found.epsilons)}/255 was found to suffice."
        if found.epsilon is None
        else f"ε = {found.epsilon}/255 suffices."
    )
    st.markdown(f"**{said}** Failed: {failed}. Succeeded: {worked}.")
    st.caption(
        "Found by doubling and halving, which takes it that whatever suffices does so with a larger ε, too. That holds "
        "only nearly: with more steps or another seed a smaller one may do."
    )


# ---- the altered picture ------------------------------------------------------------------------------------------


@st.fragment
def draw(chosen: Selection, found: AdversarialExample) -> None:
    """Original, altered and difference; answers before and after; the way, step by step."""
    steps = found.picture_steps.tolist()
    pickers.start_again("step", repr((found.run.model_id, found.run.image_digest, found.run.settings)), steps[-1])
    if st.session_state.get("step") not in (None, *steps):
        st.session_state["step"] = steps[-1]
    _verdict(found)
    step = steps[-1]
    pictures = st.container()
    if len(steps) > 1:
        step = st.select_slider(
            "After step",
            steps,
            steps[-1],
            key="step",
            bind="query-params",
            help="Every picture on the way is rounded to 8 bits and answered as a file would be.",
        )
    with pictures:
        _three_pictures(found, found.pictures[steps.index(step)], step)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Altered picture",
            render.png(found.altered),
            found.name,
            icon=":material/download:",
            type="primary",
            key="altered",
            on_click="ignore",
            help="A PNG of exactly these pixels, at the network’s input size. Upload it here and it fools again.",
        )
        _downloads(chosen, found)
    _answers(chosen, found, step)


def clean_image(found: AdversarialExample) -> InputImage:
    """What the network saw before."""
    return images.from_pixels(found.original, name=found.name.replace("-altered", ""))


def _verdict(found: AdversarialExample) -> None:
    before = _answer(found.before.labels[0], found.before.probabilities[0])
    after = _answer(found.after.labels[0], found.after.probabilities[0])
    wanted = f"seen as {frame.plain(found.target_label)}" if found.target is not None else "another answer"
    if not found.num_steps and not found.fools:
        st.info(f"No step was taken, so nothing has changed: {before}.", icon=":material/info:")
    elif found.source == found.target:
        st.info(f"The network answers {before} already; choose another class.", icon=":material/info:")
    elif found.fools:
        st.success(f"Fooled: {before} → {after}.", icon=":material/check_circle:")
    else:
        st.warning(
            f"Not fooled: {before} → {after}; wanted: {wanted}. Try a larger ε, more steps, or “anything else”.",
            icon=":material/cancel:",
        )


def _answer(label: str, probability: float) -> str:
    return f"{frame.plain(label)} {100 * probability:.1f} %"


def _three_pictures(found: AdversarialExample, pixels: show.Pixels, step: int) -> None:
    channels = found.delta.shape[0]
    delta = (pixels.astype(np.int16) - found.original)[..., :channels]
    difference, factor = render.amplified(delta)
    largest, length = int(np.abs(delta).max()), float(np.linalg.norm(delta / 255))
    captions = (
        "What the network saw" if found.run.image_digest else "The noise",
        f"Altered, after step {step}" if step < found.num_steps else "Altered",
        f"Difference × {factor}; mid grey is no change" if largest else "No difference",
    )
    for column, picture, caption in zip(
        st.columns(3, gap="small"), (found.original, pixels, difference), captions, strict=True
    ):
        column.image(render.png(show.enlarged_pixels(picture, _PICTURE_PX)), width="stretch")
        column.caption(caption)
    each = 255 * length / np.sqrt(found.delta.size)
    st.caption(
        f"Largest change of a value (L∞): {largest}/255. Length of the change (L2): {length:.2f}, white being 1, "
        f"which is {render.format_value(255 * length)}/255, or a root mean square of {each:.2f}/255. All of it in "
        "8 bits, as it is saved."
    )


def _answers(chosen: Selection, found: AdversarialExample, step: int) -> None:
    names = chosen.model.class_names
    before, after = st.columns(2, gap="small")
    for column, at, title in ((before, 0, "Before"), (after, step, f"After step {step}")):
        order = np.argsort(-found.probabilities[at], kind="stable")[:_NUM_ANSWERS]
        column.caption(title)
        with column:
            charts.draw(
                render.probability_bars([names[i] for i in order], found.probabilities[at][order].tolist()),
                key=f"answers_{title.split()[0].lower()}",
                title=f"{title}: what {chosen.model.spec.title} says",
                run=found.run,
                chosen=chosen,
                code=f"result.probabilities[{at}]",
                is_small=True,
            )
    aim = found.after.indices[0] if found.target is None else found.target
    followed = {names[index]: found.probabilities[:, index] for index in dict.fromkeys((found.source, aim))}
    charts.draw(
        render.steps_figure(followed, unit="probability", mark=step),
        key="way",
        title="Probabilities step by step",
        run=found.run,
        chosen=chosen,
        code="result.probabilities",
        is_small=True,
    )
    shown = chosen if found.run.image_digest else replace(chosen, image=clean_image(found))
    steps = "1 step" if found.num_steps == 1 else f"{found.num_steps} steps"
    frame.caption(shown, adversarial.METHODS[found.method].title, steps, f"{found.run.seconds:.1f} s")
    st.caption(
        "Made for this one network and this one preprocessing: resized, saved as a JPEG or shown to another network, "
        "the picture may fool no longer. An attack that fails proves nothing: others may succeed."
    )


def _downloads(chosen: Selection, found: AdversarialExample) -> None:
    title = f"{found.source_label} altered" + (f" to {found.target_label}" if found.target_label else "")

    def figure() -> bytes:
        difference, factor = render.amplified(np.rint(found.delta * 255).astype(np.int16).transpose(1, 2, 0))
        after = f"{found.after.labels[0]} {100 * found.after.probabilities[0]:.1f} %"
        return render.figure_png(
            np.concatenate([found.original, found.altered, difference], axis=1),
            title=title,
            caption=f"{chosen.model.spec.title}: original, altered (seen as {after}), difference x {factor} around "
            f"grey. Largest change {found.linf:.0f}/255, length {found.l2:.2f}.",
        )

    show.downloads(
        chosen,
        found.run,
        key="adversarial",
        title=title,
        figure=figure,
        exact=lambda: render.png(found.altered),
        values=found.delta,
        code="result.delta",
        shown={"largest_change_of_255": found.linf, "l2": found.l2, "fools": found.fools},
    )
