"""Programs that passed no gate and have every builtin: the kernel holds them.

Each returns what the attempt came to; see `contained.PRELUDE` for `said_by`
(a Python call's result, or the name of its error) and `c` (a C call's).
"""

import ctypes
import os
import pathlib
import platform

import pytest

from tests.sandbox import contained

# Not permitted, by the filter of system calls.
FORBIDDEN = {
  "read_file": "said_by(open, '/etc/passwd')",
  "read_environment": "said_by(open, '/proc/self/environ')",
  "read_memory": "said_by(open, '/proc/1/mem', 'rb')",
  "read_parents_environment": "said_by(os.open, '/proc/1/environ', 0)",
  "read_own_source": "said_by(open, frames.__file__)",
  "write_file": "said_by(open, '/tmp/x', 'w')",
  "write_shared_memory": "said_by(open, '/dev/shm/x', 'w')",
  "list_files": "said_by(os.listdir, '/')",
  "stat": "said_by(os.stat, '/')",
  "delete": "said_by(os.unlink, '/tmp/x')",
  "make_folder": "said_by(os.mkdir, '/tmp/x')",
  "rename": "said_by(os.rename, '/tmp/x', '/tmp/y')",
  "link": "said_by(os.symlink, '/etc/passwd', '/tmp/x')",
  "change_mode": "said_by(os.chmod, '/tmp', 0o777)",
  "change_folder": "said_by(os.chdir, '/')",
  "change_root": "said_by(os.chroot, '/')",
  "make_device": "said_by(os.mknod, '/tmp/sda', 0o060600, 0x800)",
  "internet_socket": "said_by(socket.socket)",
  "local_socket": "said_by(socket.socket, socket.AF_UNIX)",
  "raw_socket": "said_by(socket.socket, socket.AF_INET, socket.SOCK_RAW)",
  "packet_socket": "said_by(socket.socket, 17, socket.SOCK_RAW)",
  "netlink_socket": "said_by(socket.socket, 16, socket.SOCK_RAW)",
  "socket_pair": "said_by(socket.socketpair)",
  "pass_a_descriptor": "c('sendmsg', own_socket(), bytes(56), 0)",
  "fork": "said_by(os.fork)",
  "vfork": "c('vfork')",
  "spawn": "said_by(os.posix_spawn, '/bin/true', ['true'], {})",
  "exec": "said_by(os.execv, '/bin/true', ['true'])",
  "exec_memory": "said_by(os.execve, 0, ['true'], {})",
  "pipe": "said_by(os.pipe)",
  "kill_parent": "said_by(os.kill, 1, signal.SIGKILL)",
  "kill_own_parent": "said_by(os.kill, os.getppid(), signal.SIGKILL)",
  "kill_all": "said_by(os.kill, -1, signal.SIGKILL)",
  "stop_self": "said_by(os.kill, os.getpid(), signal.SIGSTOP)",
  "catch_signal": "said_by(signal.signal, signal.SIGXCPU, print)",
  "alarm": "said_by(signal.setitimer, signal.ITIMER_REAL, 1)",
  "ptrace_parent": "c('ptrace', 16, 1, 0, 0)",
  "ptrace_me": "c('ptrace', 0, 0, 0, 0)",
  "read_parents_memory": "c('process_vm_readv', 1, 0, 0, 0, 0, 0)",
  "write_parents_memory": "c('process_vm_writev', 1, 0, 0, 0, 0, 0)",
  "mount": "c('mount', b'tmpfs', b'/', b'tmpfs', 0, None)",
  "unmount": "c('umount2', b'/', 2)",
  "new_namespace": "c('unshare', 0x10000000)",
  "join_namespace": "c('setns', 0, 0)",
  "memory_file": "c('memfd_create', b'x', 0)",
  "shared_segment": "c('shmget', 1, 4096, 0o1666)",
  "message_queue": "c('msgget', 1, 0o1666)",
  "semaphores": "c('semget', 1, 1, 0o1666)",
  "set_user": "c('setuid', 0)",
  "set_limits": "c('setrlimit', 7, ctypes.byref((ctypes.c_long * 2)(9, 9)))",
  "outlive_parent": "c('prctl', 1, 0, 0, 0, 0)",
  "new_filter": "c('prctl', 22, 0, 0, 0, 0)",
  "priority": "said_by(os.setpriority, os.PRIO_PROCESS, 0, 5)",
  "terminal_input": "c('ioctl', 0, 0x5412, b'x')",
  "clock": "c('clock_settime', 0, b'\\0' * 16)",
  "host_name": "c('sethostname', b'x', 1)",
  "reboot": "c('reboot', 0)",
  "io_uring": "c('syscall', 425, 1, 0)",
  "new_mount_calls": "c('syscall', 430, b'tmpfs', 0)",
  "take_a_descriptor": "c('syscall', 438, 0, 0, 0)",
  "clone3": "c('syscall', 435, 0, 0)",
  "pidfd": "c('syscall', 434, 1, 0)",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_system_call_is_not_permitted(ungated, name):
  outcome = contained.run_ungated(ungated, f"return {FORBIDDEN[name]}")
  assert (outcome.message, outcome.answer) == ("", "EPERM")


def test_no_file_is_made(ungated, tmp_path):
  body = f"return said_by(open, {str(tmp_path / 'x')!r}, 'w')"
  contained.run_ungated(ungated, body)
  assert list(tmp_path.iterdir()) == []


def test_no_signal_comes_to_the_host(ungated):
  body = f"return said_by(os.kill, {os.getpid()}, signal.SIGTERM)"
  assert contained.run_ungated(ungated, body).answer == "EPERM"


def test_environment_holds_no_secret(ungated):
  outcome = contained.run_ungated(ungated, "return ' '.join(os.environ)")
  assert outcome.answer is not None
  names = set(outcome.answer.split())
  assert names <= {"PYTHONHASHSEED", "LC_CTYPE", "LD_LIBRARY_PATH"}


def test_secret_is_not_in_memory(ungated):
  body = """
import gc
secret = "hunter" + "2"
return any(secret in text for text in gc.get_objects() if type(text) is str)"""
  assert contained.run_ungated(ungated, body).answer == "no"


def test_no_image_or_tool_is_loaded(ungated):
  body = """
heavy = {"numpy", "PIL", "torch", "jax", "tensorflow", "vpd_jax"}
return " ".join(heavy & set(sys.modules)) or "none" """
  assert contained.run_ungated(ungated, body).answer == "none"


def test_one_descriptor_leads_out(ungated, tmp_path):
  with open(tmp_path / "open_file", "w") as file:
    os.set_inheritable(file.fileno(), True)
    with contained.start_ungated(tmp_path) as executor:
      body = "return sum(is_open(fd) for fd in range(3, 1000))"
      assert contained.run_ungated(executor, body).answer == "1"


def test_standard_input_is_empty(ungated):
  body = "return repr(os.read(0, 1))"
  assert contained.run_ungated(ungated, body).answer == "b''"


def test_standard_outputs_lead_nowhere(ungated, capfd):
  body = "os.write(1, b'seen')\nos.write(2, b'seen')\nreturn 'x'"
  contained.run_ungated(ungated, body)
  assert capfd.readouterr() == ("", "")


def test_it_has_no_capability(ungated):
  body = """
data = ctypes.create_string_buffer(24)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
LIBC.capget(header, data)
return "none" if data.raw == bytes(24) else data.raw.hex()"""
  assert contained.run_ungated(ungated, body).answer == "none"


def test_a_thread_does_not_start(ungated):
  body = """
import _thread
try:
  _thread.start_new_thread(print, ())
except RuntimeError as e:
  return str(e)"""
  outcome = contained.run_ungated(ungated, body)
  assert outcome.answer == "can't start new thread"


def test_a_module_is_not_found_on_disk(ungated):
  outcome = contained.run_ungated(ungated, "import sqlite3\nreturn 'x'")
  assert outcome.answer is None
  assert "sqlite3" in outcome.message or "not permitted" in outcome.message


def test_a_library_is_not_loaded(ungated):
  # Of the C library's own, one that no Python has loaded; some have libz.
  ctypes.CDLL("libresolv.so.2")
  body = """
try:
  ctypes.CDLL("libresolv.so.2")
except OSError as e:
  return str(e)"""
  outcome = contained.run_ungated(ungated, body)
  assert outcome.answer is not None and "cannot open" in outcome.answer


@pytest.mark.skipif(
  platform.machine() != "x86_64", reason="machine code of x86_64"
)
@pytest.mark.parametrize(
  "code",
  [
    pytest.param("b8 14 00 00 00 cd 80 c3", id="getpid_of_32_bits"),
    pytest.param("b8 27 00 00 40 0f 05 c3", id="getpid_of_x32"),
    pytest.param("b8 27 00 00 00 0f 05 c3", id="getpid"),
  ],
)
def test_machine_code_meets_the_same_filter(ungated, code):
  body = f"""
LIBC.mmap.restype = ctypes.c_void_p
code = bytes.fromhex({code!r})
page = LIBC.mmap(None, ctypes.c_long(4096), 7, 0x22, -1, ctypes.c_long(0))
ctypes.memmove(page, code, len(code))
return str(ctypes.CFUNCTYPE(ctypes.c_int)(page)())"""
  outcome = contained.run_ungated(ungated, body)
  # -1 is EPERM; a kernel without these old calls ends the process.
  refused = outcome.answer in ("-1", "-38")
  assert refused or outcome.error_class == "worker_died"


def test_a_blocked_signal_does_not_stretch_the_cpu_time(ungated):
  body = """
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: pass"""
  assert contained.run_ungated(ungated, body).error_class == "cpu_time"


def test_memory_limit_holds_for_the_c_library(ungated):
  body = """
LIBC.malloc.restype = ctypes.c_void_p
return str(LIBC.malloc(ctypes.c_long(10 ** 9)))"""
  assert contained.run_ungated(ungated, body).answer == "None"


def test_a_crash_is_its_own(ungated):
  outcome = contained.run_ungated(ungated, "ctypes.string_at(0)")
  assert outcome.error_class == "worker_died"
  assert "SIGSEGV" in outcome.message
  assert contained.is_well(ungated)


def test_no_core_is_dumped(ungated, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  contained.run_ungated(ungated, "ctypes.string_at(0)")
  assert list(pathlib.Path().iterdir()) == []


def test_memory_of_the_next_program_is_untouched(ungated):
  body = "frames.planted = 'x'\nsys.modules['math'] = None\nreturn 'x'"
  contained.run_ungated(ungated, body)
  outcome = contained.run_ungated(
    ungated, "import math\nreturn hasattr(frames, 'planted')"
  )
  assert outcome.answer == "no"
