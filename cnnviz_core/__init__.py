"""cnnviz: seeing inside convolutional networks.

Package map, from the outside in::

    ui/              the only importer of streamlit: frame, pickers, the door for computing, figures
    methods/         one module per page, same name: feature_maps, filters, cam, saliency, occlusion,
                     embeddings, neighbors, top_patches, similarity, comparison, few_shot, fine_tuning,
                     feature_visualization, class_image, adversarial, deep_dream, inversion;
                     and what their pages share: trust, segmentation
    collections/     folders of pictures: what is in them, their index, exact search
    render           results -> uint8 pictures and plotly figures; no torch, no streamlit
    jobs             long work: a queue with fair turns, progress, partial results, pause and cancel
    turns            quick computations, a few at a time, between the steps of long work
    job_records      what is known of each job after its server has gone
    result_files     finished results on disk, without pickle
    machine          what the machine has left of memory and disk
    upkeep           keeps the data folder within its bounds of space and time
    visual_study     what channels look for, in a network before and after fine-tuning
    mask_transfer    masks carried from a few pictures to others by likeness of places
    picture_gradients  the gradient of layers with respect to a picture of any size, tile by tile
    synthesis        pictures of what channels look for, many at once, and which of them failed
    training         the course of a training: features once, a linear probe, epochs, the best of them
    training_settings  what can be chosen of a training, and whether it will do
    trainable        which layers can be trained further, and a copy of the network in which they can
    features         vectors of whole pictures at any size, of one or several layers joined
    pairs            two networks of one architecture: whether they are, and what became of the weights
    cka              how alike two networks' answers to the same pictures are
    doctor           what a network is made of, and which pages and methods fit it
    model_shelf      the networks of a server, loaded once and few enough in memory at a time
    ascent           gradient ascent on a batch of pictures, each by itself
    objectives       what a picture is to excite
    models           catalogue names and checkpoints -> LoadedModel
    anatomy          what a network is made of, read off a dry run: head, activations, pooling
    catalogue        the names on offer, what is known of them, whether their weights are here; downloads
    checkpoints      reading .safetensors and state dicts, matching their keys, saying what does not fit
    pickle_check     what reading a pickle would cost, told without reading it
    layers           one dry run -> names, shapes, strides, receptive fields, call counts
    dilation         a copy of a network whose last stage keeps the finer grid of the one before
    folding          a copy of a network, or of its beginning, that gives the same in less time on a CPU
    convolution      a convolution with fixed weights in less time, forward and back
    winograd         a 3x3 convolution with a quarter of the multiplications
    weight_order     a convolution's weights in the order that the processor computes in
    incremental      many forwards of one picture with a patch on it, computing anew only what the patch changes
    tail             a network cut in two: what runs once for each picture, and what is trained
    probe            the only file with hooks or torch modes
    receptive_field  how each tensor operation widens the window of pixels a unit sees
    parametrization  pictures as spectra with decorrelated colours, or as pixels
    robustness       random views of a picture
    preprocessing    pixels <-> normalised input, with the geometry of resize and crop
    store            uploaded pictures and checkpoints in the data folder, found again by digest
    manifest         how to make a result again: settings, lines of Python, the way back to the screen
    reports          a person's report: figures set aside, commented, exported
    links            the address of a screen, checked
    html_report      a report as one HTML file that opens anywhere: text, tables, pictures, settings
    masks            masks checked, brought to grids, compared with score maps
    maps             one value for each place, brought from one size to another
    images, photos   safe decoding of pictures; the photos that installed packages carry
    stereo           the bundled pair of photos with true masks
    results          frozen result types
    settings         the app's settings, read from CNNVIZ_* variables
    roles            who may do what on a server that several people use
    journal          what happens on a server, one line per event; bugs with their ids
    pace             how long work of several kinds still takes
    numerals         numbers as people read them
    startup          process-wide switches, set once: allocator, threads
    torchvision_shim lets torchvision be imported beside a CPU build of torch
    cli              the command ``cnnviz``
    errors           what can go wrong, in words for the person at the screen

Imports go one way, ``pages -> ui -> methods -> collections -> doctor -> models -> {layers, checkpoints,
catalogue} -> {probe, preprocessing, images, ...} -> torch``; ``render`` sees only results and images; a method never
imports another page's method. ``tests/test_architecture.py`` holds the arrows.

Axis letters in shapes: N images, C channels, H W input pixels, h w layer cells, K classes, D features,
O and I output and input channels of a convolution, kh kw its kernel.
"""
