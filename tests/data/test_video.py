"""Frames of video files: the right ones, or an error that says where."""

import builtins
import inspect
import re
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from make_videos import clip, grey, write_sound, write_video

from keras_netvlad.base.video_decoding import decode, sample
from keras_netvlad.data import read_video
from keras_netvlad.data.video import check_fps

# MPEG-4 at these sizes leaves a flat grey within 3 levels (measured); steps between frames are larger.
LEVELS = 4


def levels(path, **arguments):
    return [int(np.median(frame)) for frame in read_video(path, **arguments)]


def assert_levels(found, expected):
    assert len(found) == len(expected), found
    assert np.abs(np.subtract(found, expected)).max() <= LEVELS, found


@pytest.mark.parametrize("name", ["even.mp4", "even.mkv", "even.avi", "even.mov"])
def test_frames_are_those_on_screen_at_each_multiple(tmp_path, name):
    path = write_video(tmp_path / name, [grey(20 * i) for i in range(10)])  # 10 a second
    assert_levels(levels(path), [0])
    assert_levels(levels(path, fps=2), [0, 100])
    assert_levels(levels(path, fps=4), [0, 40, 100, 140])  # at 0, 0.25, 0.5, 0.75 s: frames 0, 2, 5, 7
    assert_levels(levels(path, fps=None), range(0, 200, 20))
    assert_levels(levels(path, fps=20), [20 * (i // 2) for i in range(20)])


def test_time_stamps_count_not_frames(tmp_path):
    # Ten frames in the first half second, then one that stays for 2.5 s, then one at 3 s.
    times = [*range(0, 500, 50), 500, 3000]
    pictures = [grey(0)] * 10 + [grey(100), grey(200)]
    path = write_video(tmp_path / "variable.mkv", pictures, times)
    assert_levels(levels(path), [0, 100, 100, 200])
    assert len(levels(path, fps=None)) == 12


def test_time_begins_with_the_first_frame(tmp_path):
    pictures = [grey(20 * i) for i in range(10)]
    path = write_video(tmp_path / "late.mkv", pictures, [5000 + 100 * i for i in range(10)])
    assert_levels(levels(path, fps=2), [0, 100])


@pytest.mark.parametrize("name", ["last.mp4", "last.mkv"])
def test_the_last_frame_stays_for_its_own_duration(tmp_path, name):
    pictures = [grey(0), grey(60), grey(120)]
    path = write_video(tmp_path / name, pictures, [0, 500, 1000], last_duration=2500)
    assert_levels(levels(path, fps=2), [0, 60, 120, 120, 120, 120, 120])
    path = write_video(tmp_path / f"short.{name}", pictures, [0, 500, 1000], last_duration=500)
    assert_levels(levels(path, fps=2), [0, 60, 120])


class EditedPackets:
    """PyAV with a function that edits packets between the demuxer and the decoder, as damaged files would have them."""

    def __init__(self, edit):
        self.edit = edit

    def __getattr__(self, name):
        return getattr(av, name)

    def open(self, *arguments, **options):
        return EditedContainer(av.open(*arguments, **options), self.edit)


class EditedContainer:
    def __init__(self, container, edit):
        self.container, self.edit = container, edit

    def __getattr__(self, name):
        return getattr(self.container, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.container.close()

    def demux(self):
        for number, packet in enumerate(self.container.demux()):
            if packet.size:
                self.edit(number, packet)
            yield packet


def times_with(path, edit):
    return [float(time) for _, time, _ in decode(EditedPackets(edit), path)]


def test_frames_without_time_stamps_are_evenly_spaced(tmp_path):
    path = write_video(tmp_path / "even.avi", [grey(20 * i) for i in range(5)])

    def forget(number, packet):
        packet.pts = packet.dts = None

    np.testing.assert_allclose(times_with(path, forget), [0.0, 0.1, 0.2, 0.3, 0.4], atol=1e-9)

    def forget_the_third(number, packet):
        if number == 2:
            forget(number, packet)

    np.testing.assert_allclose(times_with(path, forget_the_third), [0.0, 0.1, 0.2, 0.3, 0.4], atol=1e-9)


def test_time_stamps_that_jump_back_keep_the_order_of_the_frames(tmp_path):
    path = write_video(tmp_path / "even.mkv", [grey(20 * i) for i in range(8)])

    def jump(number, packet):
        if number >= 5:
            packet.pts = packet.dts = packet.pts - 400

    np.testing.assert_allclose(times_with(path, jump), [0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4], atol=1e-9)
    timed = decode(EditedPackets(jump), path)
    found = [int(np.median(frame.to_ndarray(format="rgb24"))) for frame in sample(timed, Fraction(10))]
    # The last frame takes the place of the fifth, and no frame is shown twice or moved to the front.
    assert_levels(found, [0, 20, 40, 60, 140])


def test_a_packet_that_the_demuxer_calls_damaged_is_refused(tmp_path):
    pictures = [np.random.default_rng(i).integers(0, 255, (48, 64, 3)).astype("uint8") for i in range(20)]
    path = write_video(tmp_path / "cut.mp4", pictures, options={"movflags": "faststart"})
    with av.open(str(path)) as file:
        places = [packet.pos for packet in file.demux() if packet.size]
    path.write_bytes(path.read_bytes()[: places[18] + 20])
    with pytest.raises(ValueError, match=rf"Received: a damaged packet, in .* at second \d\.\d+, byte {places[18]}"):
        list(read_video(path, fps=None))


@pytest.mark.parametrize(("kept", "is_whole"), [(60, True), (58, True), (57, False), (55, False)])
def test_a_track_that_ends_early_is_refused(tmp_path, kept, is_whole):
    """A header may overstate a track by a fifth of a second; a file that ends within a second of its end counts too."""
    pictures = [np.random.default_rng(i).integers(0, 255, (48, 64, 3)).astype("uint8") for i in range(60)]
    path = write_video(tmp_path / "short.mp4", pictures, options={"movflags": "faststart"})
    with av.open(str(path)) as file:
        places = [packet.pos for packet in file.demux() if packet.size]
    path.write_bytes(path.read_bytes()[: (*places, None)[kept]])
    frames = []
    if is_whole:
        frames += read_video(path, fps=None)
    else:
        with pytest.raises(ValueError, match=r"an end of the video before the announced 6\.00 s, in .*short\.mp4"):
            frames.extend(read_video(path, fps=None))
    assert len(frames) == kept


def test_the_sound_of_a_video_is_passed_over(tmp_path):
    path = write_video(tmp_path / "both.mkv", [grey(20 * i) for i in range(10)], has_sound=True)
    with av.open(str(path)) as file:
        assert len({packet.stream.type for packet in file.demux()}) == 2
    assert_levels(levels(path, fps=None), range(0, 200, 20))


def test_a_cover_picture_is_no_video(tmp_path):
    sound = write_sound(tmp_path / "sound.mp4", cover=grey(200))
    with av.open(str(sound)) as file:
        assert len(file.streams.video) == 1
    with pytest.raises(ValueError, match=r"Received: a file without video \(audio, video\), in .*sound\.mp4"):
        list(read_video(sound))


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (29.97, Fraction(2997, 100)),
        (0.03, Fraction(3, 100)),
        (30000 / 1001, Fraction(30000, 1001)),
        (1 / 3, Fraction(1, 3)),
        (25, Fraction(25)),
        (None, None),
    ],
)
def test_a_frame_rate_is_the_fraction_that_was_meant(fps, expected):
    assert check_fps(fps) == expected


@pytest.mark.slow
def test_numbers_of_frames_of_real_clips():
    for name, expected in [("bigbuckbunny", 6), ("bikes", 10), ("carphone_pristine", 5), ("carphone_distorted", 5)]:
        assert sum(1 for _ in read_video(clip(name), size=32)) == expected  # 5.28, 10, 4.004 and 4.004 s
    assert sum(1 for _ in read_video(clip("bikes"), fps=None, size=32)) == 250
    assert sum(1 for _ in read_video(clip("bikes"), fps=29.97, size=32)) == 300


def test_frames_of_a_real_clip_are_those_that_pyav_decodes():
    with av.open(str(clip("bikes"))) as file:
        decoded = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    for i, frame in enumerate(read_video(clip("bikes"))):
        np.testing.assert_array_equal(frame, decoded[25 * i])


def corner_pictures():
    """White in the upper left quarter, black elsewhere."""
    picture = grey(0)
    picture[:24, :32] = 255
    return [picture] * 5


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_rotation_is_applied(tmp_path, rotation, corner):
    """A positive angle turns against the clock: the upper left corner goes to the lower left at 90 degrees."""
    path = write_video(tmp_path / "turned.mp4", corner_pictures(), rotation=rotation)
    (frame,) = read_video(path)
    assert frame.shape == ((64, 48, 3) if rotation % 180 else (48, 64, 3))
    half = frame.shape[0] // 2, frame.shape[1] // 2
    quarters = frame.reshape(2, half[0], 2, half[1], 3).mean((1, 3, 4))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner
    assert quarters.max() > 240
    (small,) = read_video(path, size=(20, 30))
    assert small.shape == (20, 30, 3)
    assert np.unravel_index(small.reshape(2, 10, 2, 15, 3).mean((1, 3, 4)).argmax(), (2, 2)) == corner


@pytest.mark.parametrize("rotation", [90, -90])
def test_a_rotated_video_is_cropped_upright(tmp_path, rotation):
    """Width and height change places before the crop: a square stays a square."""
    picture = grey(0)
    picture[14:34, 22:42] = 255  # 20 of the 48 rows and of the 64 columns
    path = write_video(tmp_path / "turned.mp4", [picture] * 3, rotation=rotation)
    (frame,) = read_video(path, size=24, crop_to_aspect_ratio=True)
    is_white = frame[..., 0] > 128
    assert is_white.any(1).sum() == pytest.approx(10, abs=1)
    assert is_white.any(0).sum() == pytest.approx(10, abs=1)
    (frame,) = read_video(path, size=(32, 12), crop_to_aspect_ratio=True)  # 64 by 48, turned, is 64 high
    is_white = frame[..., 0] > 128
    assert frame.shape == (32, 12, 3)
    assert is_white.any(1).sum() == pytest.approx(10, abs=1)
    assert is_white.any(0).sum() == pytest.approx(10, abs=1)


def test_mirroring_is_applied(tmp_path):
    path = write_video(tmp_path / "plain.mp4", corner_pictures(), rotation=0)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 4] = (-0x10000).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    (frame,) = read_video(path)
    assert frame[:24, 32:].mean() > 240
    assert frame[:24, :32].mean() < 15


def test_sizes(tmp_path):
    pictures = [np.concatenate([grey(0, 48, 24), grey(255, 48, 48), grey(0, 48, 24)], axis=1)]
    path = write_video(tmp_path / "wide.mkv", pictures)
    (stretched,) = read_video(path, size=24)
    (cropped,) = read_video(path, size=24, crop_to_aspect_ratio=True)
    assert stretched.shape == cropped.shape == (24, 24, 3)
    assert stretched[:, :4].mean() < 20
    assert cropped[:, 1:-1].min() > 200
    (larger,) = read_video(path, size=(100, 200))
    assert larger.shape == (100, 200, 3)


def test_colors_are_those_of_the_file(tmp_path):
    color = np.zeros((48, 64, 3), "uint8")
    color[:] = (200, 60, 30)
    path = write_video(tmp_path / "red.mkv", [color])
    (frame,) = read_video(path)
    assert np.abs(frame.astype(int) - color).max() <= 4  # measured 2


def _plain_video(directory, height, matrix, color):
    """Writes a video of one frame of one color, which names a color matrix or none."""
    path = str(directory / "plain.mkv")
    with av.open(path, "w") as file:
        stream = file.add_stream("ffv1", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, height, "yuv444p"
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        planes = np.repeat(np.array(color, "uint8"), height)[:, None].repeat(64, axis=1)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(planes.reshape(3, height, 64), format="yuv444p")))
        file.mux(stream.encode())
    return path


def test_a_color_matrix_that_cannot_be_converted_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"color matrix 8, which FFmpeg does not convert, in .* at the first frame"):
        next(read_video(_plain_video(tmp_path, 48, 8, (120, 90, 200))))


@pytest.mark.parametrize(
    ("height", "named", "expected"),
    [  # color matrices by ITU-T H.273: 1 is BT.709, 5 is BT.601; a browser assumes these for files that name none
        (480, None, 5),
        (720, None, 1),
        (480, 1, 1),
        (720, 5, 5),
    ],
)
def test_the_color_matrix_is_that_of_the_file_or_of_its_size(tmp_path, height, named, expected):
    luma, blue, red = 120, 90, 200
    path = _plain_video(tmp_path, height, named, (luma, blue, red))
    kr, kb = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}[expected]  # ITU-R BT.709 and BT.601
    y, cb, cr = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    wanted = 255 * np.array([r, (y - kr * r - kb * b) / (1 - kr - kb), b])
    (frame,) = read_video(path)
    assert np.abs(frame - wanted).max() <= 2


@pytest.mark.parametrize("name", ["still.png", "still.jpg"])
def test_a_picture_is_a_video_of_one_frame(tmp_path, name):
    codec, pixels = {"still.png": ("png", "rgb24"), "still.jpg": ("mjpeg", "yuvj420p")}[name]
    path = write_video(tmp_path / name, [grey(90)], codec=codec, options={"update": "1"}, pixels=pixels)
    assert_levels(levels(path), [90])
    assert_levels(levels(path, fps=None), [90])


def test_a_title_in_another_encoding_is_no_reason_to_refuse(tmp_path):
    path = write_video(tmp_path / "cafe.mkv", [grey(90)] * 3, title="Cafe de Paris")
    path.write_bytes(path.read_bytes().replace(b"Cafe de", b"Caf\xe9 de"))
    assert len(list(read_video(path, fps=None))) == 3


def test_files_without_video_are_refused(tmp_path):
    sound = write_sound(tmp_path / "sound.mp4")
    with pytest.raises(ValueError, match=r"Received: a file without video \(audio\), in .*sound\.mp4 at"):
        list(read_video(sound))
    text = tmp_path / "notes.txt"
    text.write_text("no video\n" * 100)
    with pytest.raises(ValueError, match=r"complete file that FFmpeg decodes.*notes\.txt at the first frame, byte 0"):
        list(read_video(text))
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.mp4 at the first frame, byte 0"):
        list(read_video(empty))
    playlist = tmp_path / "list.txt"
    playlist.write_text(f"ffconcat version 1.0\nfile '{clip('bikes')}'\n")
    with pytest.raises(ValueError, match=r"list\.txt"):
        list(read_video(playlist))


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_truncated_files_are_refused_after_what_is_whole(tmp_path, name):
    pictures = [np.random.default_rng(i).integers(0, 255, (48, 64, 3)).astype("uint8") for i in range(60)]
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = write_video(tmp_path / name, pictures, options=options)
    whole = list(read_video(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = []
    with pytest.raises(ValueError, match=rf"Received: .*{re.escape(name)} at second \d\.\d+, byte [1-9]\d+"):
        frames.extend(read_video(path))  # extend keeps what came before the error
    assert 1 <= len(frames) <= 3
    np.testing.assert_array_equal(frames, whole[: len(frames)])


def test_an_mp4_without_its_index_is_refused(tmp_path):
    path = tmp_path / "lost.mp4"
    path.write_bytes(clip("bikes").read_bytes()[:200_000])
    if b"moov" in path.read_bytes():
        path.write_bytes(path.read_bytes().replace(b"moov", b"lost"))
    with pytest.raises(ValueError, match=r"lost\.mp4 at the first frame"):
        list(read_video(path))


def test_damage_inside_is_refused(tmp_path):
    data = bytearray(clip("bikes").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = np.random.default_rng(0).integers(0, 255, 4000).astype("uint8").tobytes()
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged\.mp4 at second \d\.\d+, byte \d+"):
        list(read_video(path, fps=None, size=32))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3601, 10_000_000])
def test_a_time_stamp_far_in_the_future_is_refused(tmp_path, seconds):
    path = write_video(tmp_path / "jump.mkv", [grey(0), grey(50), grey(99)], times=[0, 500, 1000 * seconds])
    message = rf"time stamp of {seconds}\.00 s, more than an hour after .*, in .*jump\.mkv at second 0\.50, byte \d+"
    for fps in (1, None):
        with pytest.raises(ValueError, match=message):
            list(read_video(path, fps=fps))
    # A slide show may stay on a picture for an hour.
    write_video(path, [grey(0), grey(99)], times=[0, 3_600_000])
    assert len(list(read_video(path, fps=0.1))) == 361


def test_a_frame_that_lasts_far_into_the_future_is_refused(tmp_path):
    with av.open(str(tmp_path / "long.mkv"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for packet in [*stream.encode(av.VideoFrame.from_ndarray(grey(0), format="rgb24")), *stream.encode()]:
            packet.duration = int(10_000_000 / packet.time_base)
            file.mux(packet)
    message = r"a frame that lasts 10000000\.00 s, more than an hour, in .*long\.mkv at second 0\.00, byte \d+"
    with pytest.raises(ValueError, match=message):
        list(read_video(tmp_path / "long.mkv"))


@pytest.mark.slow
def test_only_what_is_needed_is_in_memory(tmp_path):
    path = write_video(tmp_path / "long.mkv", [grey(i % 200, 240, 320) for i in range(300)])
    frames = read_video(path, fps=None)
    assert inspect.isgenerator(frames)
    next(frames)
    tracemalloc.start()
    for _ in frames:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 240 * 320 * 3


@pytest.mark.parametrize("fps", [0, -1, "1", True, float("nan"), float("inf")])
def test_wrong_fps_is_refused(fps):
    with pytest.raises(ValueError, match=r"`fps` must be a finite number above 0, or None for every frame. Received:"):
        read_video(clip("bikes"), fps=fps)
    with pytest.raises(ValueError, match=r"`fps` must be at least 1e-6\. Received: 1e-07"):
        read_video(clip("bikes"), fps=1e-7)


@pytest.mark.parametrize("size", [0, (10,), (0, 10), "224", True, (10, 2.5)])
def test_wrong_size_is_refused(size):
    with pytest.raises(ValueError, match=r"`size` must be \(height, width\) in pixels"):
        read_video(clip("bikes"), size=size)


def test_other_wrong_arguments_are_refused(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match=r"`path` must be a path\. Received: path=3"):
        read_video(3)
    with pytest.raises(FileNotFoundError, match=r"The video must be a file; check the path. Received: .*none.mp4"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="needs a size to crop to"):
        read_video(clip("bikes"), crop_to_aspect_ratio=True)
    with pytest.raises(ValueError, match=r"must be True or False. Received: crop_to_aspect_ratio=1"):
        read_video(clip("bikes"), size=8, crop_to_aspect_ratio=1)
    original = builtins.__import__

    def without_av(name, *arguments, **options):
        if name == "av":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(ImportError, match=r"pip install 'keras_netvlad\[video\]'"):
        read_video(clip("bikes"))
