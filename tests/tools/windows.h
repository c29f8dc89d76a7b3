/* windows.h - what the suites use of POSIX, in terms of Windows. tests/tools/systems.sh includes it before each suite that
 * it compiles with MinGW-w64. Functions without a counterpart fail: fork, links, FIFOs, limits; cases that are about them
 * say SKIP. */
#ifndef TEST_WINDOWS_H
#define TEST_WINDOWS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#define NOGDI
#undef _WIN32_WINNT
#define _WIN32_WINNT 0x0602
#include <direct.h>
#include <errno.h>
#include <fcntl.h>
#include <io.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <windows.h>
#define UNUSED_OK __attribute__((unused)) static

#undef NEAR /* a suite's own names, which windows.h takes */
#undef SMALL

/* ---- Memory: free takes what malloc and aligned_alloc gave ---- */

UNUSED_OK void *test_malloc(size_t n) { return _aligned_malloc(n ? n : 1, 16); }
UNUSED_OK void *test_calloc(size_t n, size_t each) {
    void *p = each && n > SIZE_MAX / each ? NULL : test_malloc(n * each);
    return p ? memset(p, 0, n * each) : NULL;
}
UNUSED_OK void *test_realloc(void *p, size_t n) { return _aligned_realloc(p, n, 16); }
UNUSED_OK void *test_aligned(size_t align, size_t n) { return _aligned_malloc(n, align); }
UNUSED_OK void test_free(void *p) { _aligned_free(p); }
UNUSED_OK char *test_strdup(const char *text) {
    char *copy = test_malloc(strlen(text) + 1);
    return copy ? strcpy(copy, text) : NULL;
}
#define malloc(n)               test_malloc(n)
#define calloc(n, each)         test_calloc(n, each)
#define realloc(p, n)           test_realloc(p, n)
#define aligned_alloc(align, n) test_aligned(align, n)
#define free                    test_free
#define strdup                  test_strdup

UNUSED_OK void *memmem(const void *in, size_t n, const void *what, size_t length) {
    for (const char *p = in; n >= length; p++, n--)
        if (memcmp(p, what, length) == 0) return (void *)(uintptr_t)p;
    return NULL;
}

/* ---- Files: all are binary ---- */

#define O_CLOEXEC  O_NOINHERIT
#define O_NONBLOCK 0
__attribute__((constructor)) static void test_binary(void) {
    _fmode = _O_BINARY;
    _setmode(1, _O_BINARY);
}
#define mkdir(path, mode) _mkdir(path)
UNUSED_OK int test_truncate(int fd, int64_t size) {
    int status = fd < 0 ? -1 : _chsize_s(fd, size);
    return status ? -1 : 0;
}
UNUSED_OK int test_truncate_path(const char *path, int64_t size) { /* with a hole, as Linux makes */
    HANDLE h = CreateFileA(path, GENERIC_WRITE, 7, NULL, OPEN_EXISTING, 0, NULL);
    DWORD n;
    if (h == INVALID_HANDLE_VALUE) return -1;
    DeviceIoControl(h, 0x900c4 /* FSCTL_SET_SPARSE */, NULL, 0, NULL, 0, &n, NULL);
    LARGE_INTEGER at = {.QuadPart = size};
    bool good = SetFilePointerEx(h, at, NULL, FILE_BEGIN) && SetEndOfFile(h);
    CloseHandle(h);
    return good ? 0 : -1;
}
#define truncate(path, size) test_truncate_path(path, size)
#undef ftruncate
#define ftruncate(fd, size)  test_truncate(fd, size)
UNUSED_OK ssize_t pwrite(int fd, const void *p, size_t n, int64_t at) {
    return _lseeki64(fd, at, SEEK_SET) < 0 ? -1 : _write(fd, p, (unsigned)n);
}
UNUSED_OK int test_rename(const char *from, const char *to) {
    return MoveFileExA(from, to, MOVEFILE_REPLACE_EXISTING) ? 0 : (errno = EACCES, -1);
}
#define rename(from, to) test_rename(from, to)
UNUSED_OK int symlink(const char *target, const char *path) { return (void)target, (void)path, errno = ENOSYS, -1; }
UNUSED_OK int link(const char *from, const char *to) { return CreateHardLinkA(to, from, NULL) ? 0 : -1; }
UNUSED_OK int mkfifo(const char *path, int mode) { return (void)path, (void)mode, errno = ENOSYS, -1; }
#define lstat(path, st)      stat(path, st)
#define realpath(path, full) _fullpath(full, path, 4096)
UNUSED_OK ssize_t getline(char **line, size_t *room, FILE *f) {
    size_t n = 0;
    for (int c; (c = getc(f)) != EOF;) {
        if (n + 2 > *room) *line = realloc(*line, *room = 2 * n + 128);
        (*line)[n++] = (char)c;
        if (c == '\n') break;
    }
    return n ? (*line)[n] = 0, (ssize_t)n : -1;
}

/* ---- The shell's commands that the suites call: rm, mkdir -p, mv, cp and cd, joined by && ---- */

UNUSED_OK void test_remove(const char *path) {
    char inside[4096];
    WIN32_FIND_DATAA entry;
    DWORD attributes = GetFileAttributesA(path);
    if (attributes == INVALID_FILE_ATTRIBUTES) return;
    if (!(attributes & FILE_ATTRIBUTE_DIRECTORY)) {
        SetFileAttributesA(path, FILE_ATTRIBUTE_NORMAL), DeleteFileA(path);
        return;
    }
    snprintf(inside, sizeof inside, "%s/*", path);
    HANDLE h = FindFirstFileA(inside, &entry);
    for (BOOL more = h != INVALID_HANDLE_VALUE; more; more = FindNextFileA(h, &entry)) {
        if (strcmp(entry.cFileName, ".") == 0 || strcmp(entry.cFileName, "..") == 0) continue;
        snprintf(inside, sizeof inside, "%s/%s", path, entry.cFileName);
        test_remove(inside);
    }
    FindClose(h);
    RemoveDirectoryA(path);
}

UNUSED_OK bool test_command(char **word, int n, const char *folder) {
    char path[3][4096];
    bool good = true;
    int first = 1;
    while (first < n && word[first][0] == '-') first++;
    for (int i = first; i < n && i < first + 2; i++) {
        bool whole = word[i][0] == '/' || !*folder;
        snprintf(path[i - first], sizeof *path, "%s%s%s", whole ? "" : folder, whole ? "" : "/", word[i]);
    }
    if (strcmp(word[0], "rm") == 0) {
        WIN32_FIND_DATAA entry;
        for (int i = first; i < n; i++) {
            snprintf(path[0], sizeof *path, "%s%s%s", folder, *folder ? "/" : "", word[i]);
            if (!strchr(word[i], '*')) { test_remove(path[0]); continue; }
            HANDLE h = FindFirstFileA(path[0], &entry);
            for (BOOL more = h != INVALID_HANDLE_VALUE; more; more = FindNextFileA(h, &entry)) {
                snprintf(path[1], sizeof *path, "%s/%s", folder, entry.cFileName);
                test_remove(path[1]);
            }
            FindClose(h);
        }
    } else if (strcmp(word[0], "mkdir") == 0)
        for (int i = first; i < n; i++) {
            snprintf(path[0], sizeof *path, "%s%s%s", folder, *folder ? "/" : "", word[i]);
            for (char *c = path[0] + 1; *c; c++)
                if (*c == '/') *c = 0, _mkdir(path[0]), *c = '/';
            _mkdir(path[0]);
            good &= (GetFileAttributesA(path[0]) & FILE_ATTRIBUTE_DIRECTORY) != 0;
        }
    else if (n == first + 2) {
        DWORD to = GetFileAttributesA(path[1]);
        if (to != INVALID_FILE_ATTRIBUTES && (to & FILE_ATTRIBUTE_DIRECTORY)) {
            const char *name = strrchr(word[first], '/') ? strrchr(word[first], '/') + 1 : word[first];
            snprintf(path[2], sizeof *path, "%s/%s", path[1], name);
            memcpy(path[1], path[2], sizeof *path);
        }
        if (strcmp(word[0], "mv") == 0) good = test_rename(path[0], path[1]) == 0;
        else good = strcmp(word[0], "cp") == 0 && (CopyFileA(path[0], path[1], word[1][0] == '-') || word[1][0] == '-');
    } else good = false;
    return good;
}

UNUSED_OK int test_system(const char *command) {
    char text[8192], folder[4096] = "", *word[16];
    int n = 0;
    snprintf(text, sizeof text, "%s", command);
    if (strpbrk(text, "$;|>[")) return printf("SKIP: no shell for %s\n", command), -1;
    for (char *at = text; *at;) {
        at += strspn(at, " ");
        char end = *at == '\'' ? '\'' : ' ';
        at += end == '\'';
        if (*at) word[n++] = at;
        at += strcspn(at, end == '\'' ? "'" : " ");
        if (*at) *at++ = 0;
        bool joined = n && strcmp(word[n - 1], "&&") == 0;
        if (!joined && *at) continue;
        n -= joined;
        if (n == 2 && strcmp(word[0], "cd") == 0) snprintf(folder, sizeof folder, "%s", word[1]);
        else if (n && !test_command(word, n, folder)) return 1;
        n = 0;
    }
    return 0;
}
#define system(command) test_system(command)

/* ---- SIGBUS: a page that cannot be read, and accesses to what it was replaced by ---- */

#undef SIGBUS
#define SIGBUS     7
#define SA_SIGINFO 4
typedef struct {
    void *si_addr;
} siginfo_t;
struct sigaction {
    void (*sa_sigaction)(int, siginfo_t *, void *);
    void (*sa_handler)(int);
    int sa_flags;
};
static struct sigaction test_on_bus;
static bool test_bus_refused;
UNUSED_OK LONG WINAPI test_on_fault(EXCEPTION_POINTERS *fault) {
    const EXCEPTION_RECORD *r = fault->ExceptionRecord;
    siginfo_t info = {(void *)r->ExceptionInformation[1]};
    if (r->ExceptionCode != EXCEPTION_IN_PAGE_ERROR && r->ExceptionCode != EXCEPTION_ACCESS_VIOLATION) return EXCEPTION_CONTINUE_SEARCH;
    if (!test_on_bus.sa_sigaction) return EXCEPTION_CONTINUE_SEARCH;
    test_on_bus.sa_sigaction(SIGBUS, &info, NULL);
    return test_bus_refused ? EXCEPTION_CONTINUE_SEARCH : EXCEPTION_CONTINUE_EXECUTION;
}
UNUSED_OK int sigaction(int n, const struct sigaction *action, struct sigaction *old) {
    (void)old;
    if (!action || n != SIGBUS) return 0;
    if (!test_on_bus.sa_sigaction) AddVectoredExceptionHandler(1, test_on_fault);
    test_on_bus = *action;
    return 0;
}
UNUSED_OK void test_signal(int n) { test_bus_refused = n == SIGBUS; }
#define signal(n, handler) test_signal(n)

/* ---- Processes, cores, limits ---- */

typedef int test_pid;
#define pid_t test_pid
UNUSED_OK pid_t fork(void) { return -1; }
#define pipe(ends) (-1)
UNUSED_OK pid_t waitpid(pid_t pid, int *status, int flags) { return (void)status, (void)flags, pid; }
#define WIFEXITED(status)   (status == 0)
#define WEXITSTATUS(status) (status)
UNUSED_OK unsigned alarm(unsigned seconds) { return (void)seconds, 0; }
#define _SC_PAGESIZE 1
UNUSED_OK long sysconf(int name) { return (void)name, 1 << 16; }
typedef struct {
    DWORD_PTR bits;
} cpu_set_t;
#define CPU_SETSIZE     64
#define CPU_ZERO(s)     ((s)->bits = 0)
#define CPU_SET(c, s)   ((s)->bits |= (DWORD_PTR)1 << (c))
#define CPU_ISSET(c, s) ((s)->bits >> (c) & 1)
UNUSED_OK int sched_getaffinity(int pid, size_t n, cpu_set_t *s) {
    DWORD_PTR all;
    (void)pid, (void)n;
    return GetProcessAffinityMask(GetCurrentProcess(), &s->bits, &all) ? 0 : -1;
}
UNUSED_OK int sched_setaffinity(int pid, size_t n, const cpu_set_t *s) {
    (void)pid, (void)n;
    return SetProcessAffinityMask(GetCurrentProcess(), s->bits) ? 0 : -1;
}

struct rlimit {
    uint64_t rlim_cur;
};
struct rusage {
    long ru_minflt, ru_majflt, ru_maxrss;
    struct timeval ru_utime, ru_stime;
};
enum { RLIMIT_MEMLOCK, RLIMIT_FSIZE, RUSAGE_SELF };
UNUSED_OK int getrlimit(int what, struct rlimit *l) { return (void)what, (void)l, errno = ENOSYS, -1; }
UNUSED_OK int setrlimit(int what, const struct rlimit *l) { return (void)what, (void)l, errno = ENOSYS, -1; }
UNUSED_OK int getrusage(int who, struct rusage *u) { return (void)who, memset(u, 0, sizeof *u), 0; }
UNUSED_OK int geteuid(void) { return 1; }
UNUSED_OK int seteuid(int id) { return (void)id, -1; }
UNUSED_OK int mlock(const void *p, size_t n) { return VirtualLock((void *)(uintptr_t)p, n) ? 0 : -1; }
typedef int sigset_t;
#define SIG_BLOCK 0
UNUSED_OK int sigprocmask(int how, const sigset_t *set, sigset_t *old) { return (void)how, (void)set, *old = 0, 0; }
#define S_ISLNK(mode) 0

/* Exceptions of the floating-point unit: bits 7 to 12 of MXCSR mask them */
UNUSED_OK int fegetexcept(void) { return (int)(~__builtin_ia32_stmxcsr() >> 7 & 0x3d); }
UNUSED_OK int feenableexcept(int which) {
    int old = fegetexcept();
    __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() & ~((unsigned)which << 7));
    return old;
}
UNUSED_OK int fedisableexcept(int which) {
    int old = fegetexcept();
    __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | (unsigned)which << 7);
    return old;
}

/* Which pages are in memory is not asked for: the suites then count none as touched. */
enum { PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_ANONYMOUS = 4, MAP_NORESERVE = 8, MADV_NOHUGEPAGE = 0 };
#define MAP_FAILED ((void *)-1)
UNUSED_OK void *mmap(void *at, size_t n, int how, int flags, int fd, int64_t offset) {
    (void)at, (void)how, (void)flags, (void)fd, (void)offset;
    void *p = VirtualAlloc(NULL, n, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    return p ? p : MAP_FAILED;
}
UNUSED_OK int munmap(void *p, size_t n) { return (void)n, VirtualFree(p, 0, MEM_RELEASE) ? 0 : -1; }
UNUSED_OK int madvise(void *p, size_t n, int advice) { return (void)p, (void)n, (void)advice, -1; }
UNUSED_OK int mincore(void *p, size_t n, unsigned char *in) {
    puts("SKIP: which pages opening a file reads");
    return (void)p, memset(in, 0, (n + 4095) / 4096), 0;
}

/* Cases that are about what Windows does not have. */
UNUSED_OK bool test_lacks(const char *name) {
    static const char *const lacks[][2] = {{"child", "fork"}, {"child_opens", "fork"}, {"others_fault", "fork"},
        {"fork_in_call", "fork"},
        {"cut_empty", "way to truncate a mapped file"}, {"cut_empty_threads", "way to truncate a mapped file"}, {"cut_part", "way to truncate a mapped file"},
        {"truncated", "way to truncate a mapped file"}, {"lost", "way to truncate a mapped file"}, {"in_memory", "way to remove a mapped file"},
        {"fork", "fork"}, {"group", "control groups"}, {"opening", "way to change a mapped file"}, {"changes", "way to change a mapped file"}, {"links", "symbolic links for everybody"}, {"size_limit", "limit of a file's size"}};
    for (size_t i = 0; i < sizeof lacks / sizeof *lacks; i++)
        if (strcmp(lacks[i][0], name) == 0) return printf("SKIP: Windows has no %s: %s\n", lacks[i][1], name), true;
    return false;
}

/* ---- A clock that a suite fakes by a clock_gettime of its own: what Windows says of its clock comes from that ---- */

#ifdef TEST_CLOCK
#define SYS_clock_gettime 0
UNUSED_OK long syscall(long number, int which, struct timespec *t) {
    enum { SECOND = 10000000 }; /* in units of 100 ns */
    FILETIME now;
    (void)number, (void)which;
    GetSystemTimePreciseAsFileTime(&now);
    uint64_t units = (uint64_t)now.dwHighDateTime << 32 | now.dwLowDateTime;
    *t = (struct timespec){(time_t)(units / SECOND), (long)(units % SECOND) * 100};
    return 0;
}
UNUSED_OK BOOL WINAPI test_counter(LARGE_INTEGER *ticks) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    ticks->QuadPart = t.tv_sec * 1000000000ll + t.tv_nsec;
    return TRUE;
}
UNUSED_OK BOOL WINAPI test_frequency(LARGE_INTEGER *rate) { return rate->QuadPart = 1000000000, TRUE; }
/* the pointers through which a program calls these functions of a DLL */
BOOL (WINAPI *__imp_QueryPerformanceCounter)(LARGE_INTEGER *) = test_counter;
BOOL (WINAPI *__imp_QueryPerformanceFrequency)(LARGE_INTEGER *) = test_frequency;
#endif

/* ---- A disk and threads that a suite fakes by __wrap_pread, __wrap_open and __wrap_pthread_create: the library's reads at
 * an offset, unbuffered files and new threads go through these ---- */

#ifdef TEST_DISK
#include <stdatomic.h>
#define O_DIRECT 0x100000
#define F_GETFL  3
ssize_t __wrap_pread(int, void *, size_t, off_t);
int __wrap_open(const char *, int, ...), __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

/* The function of Windows that has the name, as a pointer of the type of `like` */
#define TEST_REAL(name, like) ((__typeof__(&like))(void *)GetProcAddress(GetModuleHandleA("kernel32"), name))

enum { TEST_HANDLES = 1 << 16 };
static atomic_bool test_direct[TEST_HANDLES]; /* [handle / 4] is unbuffered */
UNUSED_OK int fcntl(int fd, int what) { return (void)what, test_direct[fd / 4 % TEST_HANDLES] ? O_DIRECT : 0; }

int __real_open(const char *path, int flags, ...) { return (void)path, (void)flags, 0; }
UNUSED_OK HANDLE WINAPI test_create_file(LPCWSTR path, DWORD access, DWORD shared, SECURITY_ATTRIBUTES *security, DWORD how, DWORD flags, HANDLE model) {
    bool direct = flags & FILE_FLAG_NO_BUFFERING;
    if (direct && __wrap_open("", O_DIRECT) < 0) return SetLastError(ERROR_INVALID_PARAMETER), INVALID_HANDLE_VALUE;
    HANDLE h = TEST_REAL("CreateFileW", test_create_file)(path, access, shared, security, how, flags, model);
    if (h != INVALID_HANDLE_VALUE) test_direct[(uintptr_t)h / 4 % TEST_HANDLES] = direct;
    return h;
}

/* Every other read is reported as one that is not finished yet. */
UNUSED_OK BOOL WINAPI test_read_file(HANDLE h, void *to, DWORD n, DWORD *got, OVERLAPPED *o) {
    static atomic_uint turn;
    static atomic_bool interrupted;
    DWORD error = 0;
    ssize_t bytes;
    if (!o) return TEST_REAL("ReadFile", test_read_file)(h, to, n, got, NULL);
    while ((bytes = __wrap_pread((int)(uintptr_t)h, to, n, (off_t)((uint64_t)o->OffsetHigh << 32 | o->Offset))) < 0 && errno == EINTR)
        if (!atomic_exchange(&interrupted, true)) puts("SKIP: Windows has no interrupted reads");
    if (bytes == 0) o->Internal = 0xc0000011 /* STATUS_END_OF_FILE */, error = ERROR_HANDLE_EOF;
    else if (bytes > 0) o->Internal = 0;
    else if (errno == EINVAL) o->Internal = 0xc000000d /* STATUS_INVALID_PARAMETER */, error = ERROR_INVALID_PARAMETER;
    else o->Internal = 0xc000003f /* STATUS_CRC_ERROR */, error = ERROR_CRC;
    o->InternalHigh = bytes > 0 ? (ULONG_PTR)bytes : 0;
    if (o->hEvent) SetEvent(o->hEvent);
    if (turn++ % 2) error = ERROR_IO_PENDING;
    return SetLastError(error), error == 0;
}
ssize_t __real_pread(int fd, void *to, size_t n, off_t at) {
    OVERLAPPED o = {.Offset = (DWORD)at, .OffsetHigh = (DWORD)((uint64_t)at >> 32), .hEvent = CreateEventA(NULL, TRUE, FALSE, NULL)};
    HANDLE h = (HANDLE)(intptr_t)fd;
    DWORD got = 0, error = 0;
    if (!TEST_REAL("ReadFile", test_read_file)(h, to, (DWORD)n, NULL, &o)) error = GetLastError();
    if (error == 0 || error == ERROR_IO_PENDING) error = GetOverlappedResult(h, &o, &got, TRUE) ? 0 : GetLastError();
    CloseHandle(o.hEvent);
    if (error == ERROR_HANDLE_EOF) return 0;
    return error ? errno = error == ERROR_INVALID_PARAMETER ? EINVAL : EIO, -1 : (ssize_t)got;
}

UNUSED_OK HANDLE WINAPI test_create_thread(SECURITY_ATTRIBUTES *security, SIZE_T stack, LPTHREAD_START_ROUTINE run, void *user, DWORD flags, DWORD *id) {
    pthread_t made = 0;
    (void)security, (void)stack, (void)flags, (void)id;
    if (__wrap_pthread_create(&made, NULL, (void *(*)(void *))run, user)) SetLastError(ERROR_NOT_ENOUGH_MEMORY);
    return (HANDLE)made;
}
int __real_pthread_create(pthread_t *made, const pthread_attr_t *attributes, void *(*run)(void *), void *user) { /* a handle */
    (void)attributes;
    *made = (pthread_t)TEST_REAL("CreateThread", test_create_thread)(NULL, 0, (LPTHREAD_START_ROUTINE)run, user, 0, NULL);
    return *made ? 0 : EAGAIN;
}

HANDLE (WINAPI *__imp_CreateFileW)(LPCWSTR, DWORD, DWORD, SECURITY_ATTRIBUTES *, DWORD, DWORD, HANDLE) = test_create_file;
BOOL (WINAPI *__imp_ReadFile)(HANDLE, void *, DWORD, DWORD *, OVERLAPPED *) = test_read_file;
HANDLE (WINAPI *__imp_CreateThread)(SECURITY_ATTRIBUTES *, SIZE_T, LPTHREAD_START_ROUTINE, void *, DWORD, DWORD *) = test_create_thread;
#endif
#endif
