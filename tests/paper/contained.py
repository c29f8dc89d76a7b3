"""contained.py REPORT ANSWER: the process that sandbox.py starts for a program, which it runs after giving up its rights.

stdin has {"folder", "program", "tests", "namespaces", "seconds"} as marshal writes it. The numbers are descriptors: the report goes to
the first, and the random number comes from the second. The report is how the process is contained and a newline, then
-NAME of the exception that ended the program or its tests, or ? and the random number. !TEXT: it cannot be contained."""
import ctypes
import errno
import marshal
import os
import resource
import struct
import sys

MEMORY, FILE_SIZE, FOLDER_SIZE, OPEN_FILES = 1 << 29, 1 << 20, "16m", 64
MACHINE = os.uname().machine

# What programs and tests use. These modules are loaded early: if there are no namespaces, no file can be opened later.
MODULES = "bisect cmath collections copy datetime decimal fractions functools hashlib heapq itertools json math operator " \
    "random re statistics string sys time typing"

# ---- The kernel's calls ----

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """A call of libc that fails with an OSError. Texts are given as bytes."""
    if getattr(libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


NEW_NAMESPACES = {"mount": 0x00020000, "uts": 0x04000000, "ipc": 0x08000000, "net": 0x40000000}
NEW_USER = 0x10000000
NOSUID, NODEV, NOEXEC, READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 2, 4, 8, 1, 0x20, 0x1000, 0x4000, 0x40000
DETACH = 2
SET_NO_NEW_PRIVS, SET_SECCOMP, FILTER, SET_DUMPABLE, CAPBSET_DROP = 38, 22, 2, 4, 24

# The system calls that the filter refuses: number on x86-64, number on aarch64 (None: the machine has no such call)
PIVOT_ROOT = (155, 41)
PROCESSES = {
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "clone3": (435, 435), "execve": (59, 221),
    "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "setpriority": (141, 140), "sched_setaffinity": (203, 122), "prlimit64": (302, 261), "setrlimit": (160, 164),
    "setsid": (112, 157), "setpgid": (109, 154), "io_uring_setup": (425, 425), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219),
}
NETWORK = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "sendto": (44, 206),
    "sendmsg": (46, 211),
}
SYSTEM = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": PIVOT_ROOT, "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "mount_setattr": (442, 442),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279),
}
FILES = {
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None), "truncate": (76, 45),
    "ftruncate": (77, 46), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None),
    "unlinkat": (263, 35), "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7),
}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


class Instruction(ctypes.Structure):  # of the filter's machine: struct sock_filter
    _fields_ = [("code", ctypes.c_ushort), ("if_true", ctypes.c_ubyte), ("if_false", ctypes.c_ubyte), ("k", ctypes.c_uint32)]


class Program(ctypes.Structure):  # struct sock_fprog
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction))]


def refuse_system_calls(files):
    """From now on the calls above fail in this process with EPERM. files: those of files are allowed."""
    load, equal, any_bit, end = 0x20, 0x15, 0x45, 0x06
    allow, refused, killed = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
    index, architecture = ARCHITECTURES[MACHINE]
    refusal = Instruction(end, 0, 0, refused)
    code = [Instruction(load, 0, 0, 4), Instruction(equal, 1, 0, architecture), Instruction(end, 0, 0, killed),
            Instruction(load, 0, 0, 0)]
    if index == 0:  # the calls of x32 have other numbers
        code += [Instruction(any_bit, 0, 1, 0x40000000), Instruction(end, 0, 0, killed)]
    for calls in (PROCESSES, NETWORK, SYSTEM, {} if files else FILES):
        for numbers in calls.values():
            if numbers[index] is not None:
                code += [Instruction(equal, 0, 1, numbers[index]), refusal]
    code.append(Instruction(end, 0, 0, allow))
    filter_code = (Instruction * len(code))(*code)
    call("prctl", SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", SET_SECCOMP, FILTER, ctypes.byref(Program(len(code), filter_code)), 0, 0)


def library_folders():
    """What Python still has to read: its own library and the shared libraries of the system."""
    wanted = {os.path.realpath(path) for path in [*sys.path, "/lib", "/lib64", "/usr/lib", "/usr/lib64"]}
    return sorted(path for path in wanted if os.path.isdir(path))


def mount(source, target, kind, flags, data=None):
    call("mount", source and source.encode(), target.encode(), kind and kind.encode(), flags, data and data.encode())


def leave_the_system(folder):
    """New namespaces, whose files are Python's library and an empty folder. Returns whether the system allows it."""
    uid, gid, user = os.getuid(), os.getgid(), 0 if os.getuid() == 0 else NEW_USER
    try:
        call("unshare", user | sum(NEW_NAMESPACES.values()))
        if user:
            for name, text in ("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1"):
                with open(f"/proc/self/{name}", "w") as stream:
                    stream.write(text)
        mount("none", "/", None, RECURSIVE | PRIVATE)
        mount("tmpfs", folder, "tmpfs", NOSUID | NODEV, f"size={FOLDER_SIZE},nr_inodes=1024,mode=755")
        for path in library_folders():
            inside = folder + path
            os.makedirs(inside, exist_ok=True)
            if not os.listdir(inside):  # else it is part of a folder that is there
                mount(path, inside, None, BIND | RECURSIVE)
                mount(None, inside, None, REMOUNT | BIND | READ_ONLY | NOSUID | NODEV)
        for link in ("/lib", "/lib64"):
            if os.path.islink(link):
                os.symlink(os.readlink(link), folder + link)
        work = folder + "/tmp"
        os.mkdir(work)
        mount("tmpfs", work, "tmpfs", NOSUID | NODEV | NOEXEC, f"size={FOLDER_SIZE},nr_inodes=1024,mode=777")
        mount(None, folder, None, REMOUNT | BIND | READ_ONLY | NOSUID | NODEV)
        os.chdir(folder)
        call("syscall", PIVOT_ROOT[ARCHITECTURES[MACHINE][0]], b".", b".")
        call("umount2", b".", DETACH)
        os.chdir("/tmp")
        return True
    except OSError:
        return False


def give_up_rights(user):
    """Without capabilities; if `user`, root becomes a user without any other process."""
    for capability in range(64):
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    if user and os.getuid() == 0:
        nobody = 0x40000000 + os.getpid()
        os.setgroups([])
        os.setresgid(nobody, nobody, nobody)
        os.setresuid(nobody, nobody, nobody)
    header, empty = struct.pack("Ii", 0x20080522, 0), bytes(24)
    call("capset", header, empty)


def set_limits(seconds):
    for name, limit in (("CPU", seconds), ("AS", MEMORY), ("FSIZE", FILE_SIZE), ("NOFILE", OPEN_FILES), ("CORE", 0),
                        ("NPROC", 0)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))


def contain(folder, namespaces, seconds):
    """Gives up what the program must not have. Returns what contains the process from now on."""
    with open("/proc/self/oom_score_adj", "w") as stream:
        stream.write("1000")  # if memory runs out, the system ends this process first
    apart = namespaces and leave_the_system(folder)
    for name in () if apart else MODULES.split():
        __import__(name)
    set_limits(seconds)
    give_up_rights(user=apart)
    refuse_system_calls(files=apart)
    return "namespaces and a filter of system calls" if apart else "a filter of system calls; no file can be opened"


# ---- The program ----


def run_both(program, tests):
    """The program, then its tests. What the program changed in Python's own modules is undone for the tests."""
    trace, profile = sys.settrace, sys.setprofile
    for name in MODULES.split():
        __import__(name)
    modules = [(vars(module), dict(vars(module))) for module in list(sys.modules.values()) if type(module) is type(sys)]
    builtins = dict(vars(sys.modules["builtins"]))
    space = {"__name__": "program", "__builtins__": dict(builtins)}
    exec(compile(program, "<program>", "exec"), space)
    trace(None)
    profile(None)
    for names, before in modules:
        names.update(before)
    exec(compile(tests, "<tests>", "exec"), {**space, "__builtins__": builtins})


def main():
    report, answer = map(int, sys.argv[1:])
    write, read, leave = os.write, os.read, os._exit
    given = marshal.loads(sys.stdin.buffer.read())
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    try:
        how = contain(given["folder"], given["namespaces"], given["seconds"])
    except (OSError, KeyError) as error:
        write(report, f"!{error}".encode())
        leave(1)
    write(report, f"{how}\n".encode())
    try:
        run_both(given["program"], given["tests"])
    except BaseException as error:
        write(report, f"-{type(error).__name__}".encode("utf-8", "replace"))
        leave(1)
    write(report, b"?")
    write(report, read(answer, 16))
    leave(0)


main()
