"""A forked job is as a process of its own: streams, status, folder, environment, signals, end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusability.execution import fork_server
from diffusability.execution.fork_client import ADDRESS
from diffusability.execution.fork_server import shared_modules, start

HAND_OVER = "from diffusability.execution.fork_client import hand_over\nhand_over()\n"


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """The environment of scripts that fork from a server which has imported `fractions`."""
    server = start(("fractions", "no_such_module"))
    yield {**os.environ, **server.environment}
    server.stop()


def script(folder: Path, text: str) -> Path:
    """Write a script that hands over first."""
    path = folder / "script.py"
    path.write_text(HAND_OVER + text)
    return path


def run(path: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    command = [sys.executable, str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


def wait_for(path: Path) -> str:
    """Return what a file holds as soon as it holds something."""
    for _ in range(500):
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


def ended(pid: int) -> bool:
    """Return whether a process is gone within seconds."""
    for _ in range(250):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.02)
    return False


def test_streams_arguments_folder_and_environment(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    text = (
        "import os, sys\n"
        "print('fractions' in sys.modules, sys.argv[1:], os.getcwd(), os.environ['MARK'])\n"
        "print(sys.stdin.read(), sys.path[0], __name__, file=sys.stderr)\n"
    )
    path = script(tmp_path, text)
    result = run(
        path, "a b", "c", cwd=tmp_path, env=environment | {"MARK": "é 1"}, input="from stdin"
    )
    assert result.stdout == f"True ['a b', 'c'] {tmp_path} é 1\n"
    assert result.stderr == f"from stdin {tmp_path} __main__\n"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("sys.exit(75)", 75),
        ("sys.exit()", 0),
        ("sys.exit('a word')", 1),
        ("1 / 0", 1),
        ("os.kill(os.getpid(), 9)", -9),
        ("os.kill(os.getpid(), 15)", -15),
        ("pass", 0),
    ],
)
def test_status(tmp_path: Path, environment: dict[str, str], end: str, status: int) -> None:
    result = run(script(tmp_path, f"import os, sys\n{end}\n"), env=environment)
    assert result.returncode == status
    assert ("a word" in result.stderr) == ("word" in end)
    assert ("ZeroDivisionError" in result.stderr) == ("/" in end)


def test_what_one_fork_does_is_not_seen_by_the_next(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    text = "import os, sys\nprint('json.tool' in sys.modules, os.environ.get('X'))\n"
    path = script(tmp_path, text + "import json.tool\nos.environ['X'] = '1'\nos.chdir('/')\n")
    assert {run(path, env=environment).stdout for _ in range(3)} == {"False None\n"}


def test_a_signal_reaches_the_fork(tmp_path: Path, environment: dict[str, str]) -> None:
    text = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n"
        "pathlib.Path('ready').write_text('yes\\n')\n"
        "time.sleep(60)\n"
    )
    path = script(tmp_path, text)
    process = subprocess.Popen([sys.executable, str(path)], cwd=tmp_path, env=environment)
    wait_for(tmp_path / "ready")
    process.terminate()
    assert process.wait(10) == 42


def test_a_signal_before_there_is_a_fork_reaches_it_later(tmp_path: Path) -> None:
    path = script(tmp_path, "")
    with socket.socket(socket.AF_UNIX) as server, subprocess.Popen(["sleep", "60"]) as fork:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        environment = {**os.environ, ADDRESS: str(tmp_path / "socket")}
        process = subprocess.Popen([sys.executable, str(path)], env=environment)
        connection, _ = server.accept()
        with connection:
            connection.recv(1)  # it has asked, and waits
            process.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            connection.sendall(f"{fork.pid}\n".encode())
            assert fork.wait(10) == -signal.SIGTERM
            connection.sendall(f"{-signal.SIGTERM}\n".encode())
            assert process.wait(10) == -signal.SIGTERM


def test_a_killed_script_takes_its_fork_along(tmp_path: Path, environment: dict[str, str]) -> None:
    text = "import os, pathlib, time\npathlib.Path('pid').write_text(f'{os.getpid()}\\n')\n"
    path = script(tmp_path, text + "time.sleep(60)\n")
    process = subprocess.Popen([sys.executable, str(path)], cwd=tmp_path, env=environment)
    fork = int(wait_for(tmp_path / "pid"))
    assert fork != process.pid
    process.kill()
    process.wait()
    assert ended(fork)
    assert run(script(tmp_path, "print('still served')"), env=environment).stdout


def test_many_at_a_time(tmp_path: Path, environment: dict[str, str]) -> None:
    path = script(tmp_path, "import sys, time\ntime.sleep(0.2)\nsys.exit(int(sys.argv[1]))\n")
    started = [
        subprocess.Popen([sys.executable, str(path), str(n)], env=environment) for n in range(16)
    ]
    assert [process.wait(30) for process in started] == list(range(16))


def test_without_a_server_the_script_runs_by_itself(tmp_path: Path) -> None:
    server = start(())
    server.stop()
    text = "import os, sys\nprint(os.getppid(), 'fractions' in sys.modules)\n"
    path = script(tmp_path, text + "assert 'DIFFUSABILITY_LOST_FORK' not in os.environ\n")
    for leads in ({}, server.environment):
        result = run(path, env={**os.environ, **leads})
        assert result.stdout == f"{os.getpid()} False\n"


def test_forks_go_on_when_owner_and_server_are_killed(tmp_path: Path) -> None:
    text = (
        "import pathlib, time\npathlib.Path('ready').write_text('yes\\n')\ntime.sleep(1.5)\n"
        "pathlib.Path('done').write_text('yes\\n')\n"
    )
    path = script(tmp_path, text)
    owner = tmp_path / "owner.py"
    owner.write_text(
        "import os, subprocess, sys\n"
        "from diffusability.execution.fork_server import start\n"
        "server = start(())\n"
        f"job = subprocess.Popen([sys.executable, {str(path)!r}], cwd={str(tmp_path)!r},\n"
        "    env={**os.environ, **server.environment})\n"
        "print(server.process.pid, job.pid, *server.environment.values(), flush=True)\n"
        "job.wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(owner)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    server, job, leads = process.stdout.readline().split()
    wait_for(tmp_path / "ready")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert wait_for(tmp_path / "done")
    assert ended(int(server))  # it ends after its last fork
    assert not Path(leads).parent.exists()
    assert ended(int(job))


def test_a_killed_server_loses_nothing(tmp_path: Path) -> None:
    """Its fork works to the end; the script then runs by itself, and has the status of its own."""
    text = (
        "import pathlib, sys, time\n"
        "from diffusability.execution.fork_client import lost_fork\n"
        "forked = 'fractions' in sys.modules\n"
        "lost = lost_fork() is not None and time.time() - 10 < lost_fork() < time.time() - 1\n"
        "with open('runs', 'a') as file:\n    file.write(f'{forked} {lost}\\n')\n"
        "time.sleep(1 if forked else 0)\n"
        "pathlib.Path('ended').write_text('yes\\n')\n"
        "sys.exit(0 if forked else 75)\n"
    )
    server = start(("fractions",))
    path, environment = script(tmp_path, text), {**os.environ, **server.environment}
    process = subprocess.Popen([sys.executable, str(path)], cwd=tmp_path, env=environment)
    assert wait_for(tmp_path / "runs") == "True False\n"
    server.process.kill()
    server.stop()
    assert process.poll() is None
    assert not (tmp_path / "ended").exists()
    assert process.wait(10) == 75
    assert wait_for(tmp_path / "runs") == "True False\nFalse True\n"


def test_a_job_of_a_killed_server_that_is_told_to_end_ends(tmp_path: Path) -> None:
    text = "import time\nopen('runs', 'a').write('yes\\n')\ntime.sleep(60)\n"
    server = start(())
    path, environment = script(tmp_path, text), {**os.environ, **server.environment}
    process = subprocess.Popen([sys.executable, str(path)], cwd=tmp_path, env=environment)
    wait_for(tmp_path / "runs")
    server.process.kill()
    server.stop()
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    assert wait_for(tmp_path / "runs") == "yes\n"


@pytest.mark.parametrize(
    "made", ["threading.Thread(target=time.sleep, args=(9,), daemon=True).start()", "pass"]
)
def test_a_server_with_a_thread_does_not_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    """A fork would hold the locks of threads that it does not have."""
    (tmp_path / "module.py").write_text(f"import threading, time\n{made}\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    server = start(("module",))
    path = script(tmp_path, "import sys\nprint('module' in sys.modules)\n")
    result = run(path, env={**os.environ, **server.environment})
    assert result.stdout == f"{made == 'pass'}\n"
    server.stop()


def test_the_modules_of_jobs_start_no_thread_and_jobs_import_little(tmp_path: Path) -> None:
    """The first optimizer and the first network without weights import what takes a second."""
    server = start(shared_modules())
    text = (
        "import sys\nbefore = set(sys.modules)\n"
        "import torch\n"
        "with torch.device('meta'):\n    network = torch.nn.Embedding(2, 2)\n"
        "torch.optim.AdamW(network.to_empty(device='cpu').parameters())\n"
        "print('torch' in before, len(set(sys.modules) - before), torch.cuda.is_initialized())\n"
    )
    result = run(script(tmp_path, text), env={**os.environ, **server.environment})
    there, late, cuda = result.stdout.split()
    assert (there, cuda) == ("True", "False")
    assert int(late) < 20
    server.stop()


def test_without_a_server_jobs_start_by_themselves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_long(shared: object) -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(fork_server, "start", too_long)
    monkeypatch.delenv(fork_server.ADDRESS, raising=False)
    fork_server.share_imports()
    assert "AF_UNIX path too long: jobs import each for themselves" in caplog.text
    assert fork_server.ADDRESS not in os.environ
