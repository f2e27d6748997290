"""util/files.py and util/errors.py: what happens to files and exit codes when something fails."""

import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from util.errors import InputError
from util.files import atomic_folder, atomic_path, files_below, read_bytes, write_bytes

ROOT = Path(__file__).resolve().parents[1]
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")


def run(body: str, stdout: int | IO[bytes] = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program whose ``main`` has this body."""
    imports = "from util.errors import *\nfrom util.files import *"
    code = f"{imports}\n@exit_on_input_error\ndef main():\n    {body}\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, stdout=stdout, stderr=subprocess.PIPE
    )


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "new" / "file"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]
    with pytest.raises(InputError, match=r"file/below: cannot be written"):
        write_bytes(path / "below", b"")


@posix
def test_a_link_keeps_its_place_and_only_regular_files_are_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk" / "file")
    for data in (b"first", b"second"):  # a dangling link first
        write_bytes(link, data)
        assert link.is_symlink() and (tmp_path / "disk" / "file").read_bytes() == data
    os.mkfifo(tmp_path / "fifo")
    for other in (tmp_path / "fifo", tmp_path / "disk", Path("/dev/null")):
        kind = other.stat().st_mode
        with pytest.raises(InputError, match=f"{other}: is not a regular file"):
            write_bytes(other, b"")
        assert other.stat().st_mode == kind
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "fifo", "link"]


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    """Not those of processes that may still be writing, also on other machines."""
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    left, busy, foreign = (
        tmp_path / f".{name}.1.{process}.tmp"
        for name, process in (
            ("a.png", f"{killed.pid}@{platform.node()}"),
            ("b", f"{os.getppid()}@{platform.node()}"),
            ("a", f"{killed.pid}@elsewhere"),
        )
    )
    for path in (left, busy, foreign):
        path.write_bytes(b"half")
    write_bytes(tmp_path / "a", b"whole")
    assert set(tmp_path.iterdir()) == {tmp_path / "a", busy, foreign} and (tmp_path / "a").read_bytes() == b"whole"


@posix
def test_leftover_folders_of_killed_processes_are_removed(tmp_path):
    code = "import os; from pathlib import Path; from util.files import atomic_folder\n"
    code += f"with atomic_folder(Path({str(tmp_path / 'new')!r})) as made: made.mkdir(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 9
    (left,) = tmp_path.iterdir()
    with atomic_folder(tmp_path / "other") as made:
        made.mkdir()
        assert not left.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "other"]


@posix
def test_whatever_name_the_file_system_takes_can_be_written(tmp_path, monkeypatch):
    """A video's name may be long, and so may the name of a machine, which the temporary name holds."""
    monkeypatch.setattr(platform, "node", lambda: "n" * 64)
    name = "x" * 255  # bytes, which nearly all file systems allow
    write_bytes(tmp_path / name, b"whole")
    with atomic_folder(tmp_path / "new" / name) as made:
        made.mkdir()
    assert (tmp_path / name).read_bytes() == b"whole" and (tmp_path / "new" / name).is_dir()


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "missing"])
def test_names_of_no_file(tmp_path, name):
    with pytest.raises(InputError, match="expected a file"):
        read_bytes(tmp_path / name, "a file")


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").touch()
    assert files_below(tmp_path) == [tmp_path / "a/b"]
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        files_below(tmp_path)


@posix
def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    for folder in ("a", "b/c"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    (tmp_path / "a/b").symlink_to("../b")
    (tmp_path / "b/c/a").symlink_to("../../a")
    assert set(files_below(tmp_path / "a")) == {tmp_path / "a/file", tmp_path / "a/b/c/file"}


def test_two_processes_may_write_one_file(tmp_path):
    path = tmp_path / "file"
    body = f"for size in range(100): write_bytes(Path({str(path)!r}), bytes([65 + size % 2]) * 10**5)"
    code = f"from pathlib import Path\nfrom util.files import write_bytes\n{body}"
    writers = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [(b"", 0), (b"", 0)]
    assert len(set(path.read_bytes())) == 1 and path.stat().st_size == 10**5 and list(tmp_path.iterdir()) == [path]


@posix
@pytest.mark.parametrize("limit", [1000, 9000])  # inside and beyond the first block that Python writes
def test_a_short_write_is_an_error(tmp_path, limit):
    """A file size limit behaves like a full disk: first a short write, then an error."""
    write_bytes(tmp_path / "file", b"old")
    path = str(tmp_path / "file")
    limits = f"import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    result = run(f"{limits}; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); write_bytes({path!r}, bytes(10000))")
    assert result.returncode == 2 and result.stderr.decode().startswith(f"error: {path}: cannot be written")
    assert (tmp_path / "file").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("body", "encoding", "code", "out", "error"),
    [
        ("return 3", "utf-8", 3, "", ""),
        ("raise InputError('file: expected')", "utf-8", 2, "", "error: file: expected"),
        (
            "raise InputError('a\\nb.png: ' + 'c' * 10**6)",
            "utf-8",
            2,
            "",
            rf"error: a\nb.png: {'c' * 481} … {'c' * 490}",
        ),
        ("raise FileNotFoundError(2, 'Not here', 'a')", "utf-8", 2, "", "error: a cannot be used (Not here)"),
        ("raise RuntimeError('Symlink loop from a')", "utf-8", 2, "", "error: Symlink loop from a"),
        ("raise InputError('中.png: expected')", "cp1252", 2, "", r"error: \u4e2d.png: expected"),
        ("print('ä → \\udcff')", "cp1252", 0, r"ä \u2192 \udcff", ""),
        ("print('ä → \\udcff')", "ascii", 0, r"\xe4 \u2192 \udcff", ""),
        (
            "raise FileNotFoundError(2, 'No such file or directory')",
            "utf-8",
            2,
            "",
            "error: current folder cannot be used (No such file or directory)",
        ),
        (
            "'a\\udcff'.encode()",
            "utf-8",
            2,
            "",
            r"error: 'a\udcff' cannot be written (surrogates not allowed); expected UTF-8",
        ),
        ("raise KeyboardInterrupt", "utf-8", 130, "", "interrupted"),
        ("raise MemoryError", "utf-8", 1, "", "error: out of memory"),
        ("raise RuntimeError('DefaultCPUAllocator: not enough memory')", "utf-8", 1, "", "error: out of memory"),
        ("raise ImportError('libtorch_cpu.so: failed to map segment')", "utf-8", 1, "", "error: out of memory"),
        (
            "raise OSError(errno.EMFILE, 'Too many open files')",
            "utf-8",
            2,
            "",
            "error: Too many open files; expected a higher limit (ulimit -n)",
        ),
        ("raise InputError('a\\nb: expected')", "utf-8", 2, "", r"error: a\nb: expected"),
        (
            "raise PermissionError(13, 'Permission denied', 'a/b')",
            "utf-8",
            2,
            "",
            "error: a/b cannot be used (Permission denied)",
        ),
        (
            "open('x' * 5000)",
            "utf-8",
            2,
            "",
            f"error: {'x' * 483} … {'x' * 454} cannot be used (File name too long)",
        ),
    ],
)
def test_errors_are_one_line_and_an_exit_code(body, encoding, code, out, error):
    result = run(body, PYTHONIOENCODING=encoding)
    printed = [stream.decode(encoding).strip() for stream in (result.stdout, result.stderr)]
    assert [result.returncode, *printed] == [code, out, error]


def test_every_program_imports_first_what_makes_interrupts_one_line():
    programs = [*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in programs}
    guarded = [text for text in texts.values() if "@exit_on_input_error\ndef main(" in text]
    assert len(guarded) > 15
    for text in guarded:
        modules = re.findall(r"^(?:from|import) ([\w.]+)", text, re.M)
        assert modules[0] == "util.interrupt" or modules[:3] == ["sys", "pathlib", "util.interrupt"], text[:100]


@posix
@pytest.mark.parametrize(("program", "module"), [("train.py", "tyro"), ("scripts/score.py", "numpy")])
def test_an_interrupt_during_the_imports_is_one_line(tmp_path, program, module):
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, program], cwd=ROOT, env=environment, capture_output=True)
    assert result.returncode == -signal.SIGINT and result.stderr == b"interrupted\n"


@posix
def test_nothing_is_printed_into_a_file_where_streams_are_closed(tmp_path):
    path = tmp_path / "file"
    code = f"import util.interrupt, os, sys; file = open({str(path)!r}, 'w'); print(1); print(2, file=sys.stderr)\n"
    code += "for number in range(1, 3): os.write(number, b'3')"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, preexec_fn=lambda: os.closerange(0, 3)).returncode == 0
    assert path.read_bytes() == b""


@posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("body", ["print(1)", "print('1\\n' * 10**5)", "print(1); raise InputError('x')"])
def test_output_that_cannot_be_written(body, unbuffered):
    with Path("/dev/full").open("wb") as full:
        result = run(body, stdout=full, PYTHONUNBUFFERED=unbuffered)
    assert result.returncode == 2 and result.stderr == b"error: output cannot be written (No space left on device)\n"
    reader, writer = os.pipe()
    os.close(reader)
    result = run(body, stdout=writer, PYTHONUNBUFFERED=unbuffered)
    os.close(writer)
    assert result.returncode == 141 and result.stderr == b""
