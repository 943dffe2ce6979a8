"""The package under the scripts. The scripts share models.py, networks.py, dataset.py and utils.py, beside
them; everything else is here, by topic, and never imports the root.

    base/       cli (flags, errors, words), values (what a value may be), files (whole or not at all),
                workers (processes and threads that may hang), signals (Ctrl-C and SIGTERM),
                distributed (torchrun's ranks, seeds), lazy (heavy modules, imported when used)
    video/      reader, writer (H.264 with sound, sampled clips), avi (the container's bytes),
                cut (a stretch of a film), framefolder (pictures as a video), flow (optical flow), sampling
                (class Rate: FPS / sampling_rate)
    data/       sources (a folder of raw videos), sampler (one video or picture, one clip), journal (what was
                sampled, and what changed since), review (what a person decided of clips), manifest (what lies
                in a folder of clips), groups (clips of one recording), split_lists (which are read), splits
                (which are drawn, and kept), learned
                (what weights were trained on, through any number of runs), frames (windows, views, crops;
                rgb, rgbdiff, flow: what the encoder sees of a moment), chunks (of frames, for video
                networks), fields (flow of sampled frames),
                likeness (black, frozen, nearly equal clips), overview (the report of the data)
    features/   backbones (networks by name), surgery (fold, cut, units), engines (PyTorch, OpenVINO,
                onnxruntime; precision), onnx (its files), rows (which pictures clips need, and what
                videos hold), features (of clips, and what a model says of them), store (of features),
                inventory (what the store holds, and less of it)
    evaluation/ scores (top-k, losses, figures of each class, confidence), intervals (how sure one can be of
                a figure, paired tests, runs side by side), answers (videos with labels and answers: of a
                test, a tested run, folds), results (tables and pictures): what test.py and fuse.py leave
    training/   recipe (one dataclass of a run's choices), feeds, loop (epochs), run (what it starts from, its
                epochs and files), album (its pictures), folds (cross-validation), tuning (which settings, and
                their table)
    watching/   recogniser (a run, or the ONNX file of one, on films), history (windows, moments, segments),
                exported (such a file), films (labelled, and cameras recorded), live, outputs, truth: what
                test_on_video.py stands on; candidates: find_clips.py
    study/      movies, figures, network, results_table, graphs: what
                test_continues_movie.py stands on
    teaching/   labels (of moments of films, a row for each key), footage (films, their moments, and features
                of these), asking (what labels teach, and what to ask next), page (what an open page waits
                for), session (films, labels and the network between them), review (clips that are there
                already), server (the page's addresses, and who may ask): what teach.py stands on
    pages/      reading (a run folder), charts, page (and its small films): what report.py stands on
    drawing/    style, plots, labels (and pictures of frames)
    runs.py     the run folder: every file name in it, once
    checkpoints.py  safe loading, atomic saving, what a checkpoint may say: what convert.py stands on

Imports run one way: scripts -> modules -> lrcn, and inside base <- video <- data <- features <- checkpoints
<- evaluation (each may use those before it); drawing uses video; runs uses data; training, watching, study
and pages stand on all of these and never on each other; teaching stands on training and watching too.
tests/test_structure.py names the import that breaks this.
"""
import os

# OpenCV, which reads cameras and streams, reads these when it is loaded: its remarks stay off stderr.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;prefer_tcp|fflags;discardcorrupt")
