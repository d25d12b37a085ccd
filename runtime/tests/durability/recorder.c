/*
 * A preloaded library (LD_PRELOAD) that writes down, in the order in which they happen, all calls by which a process changes what is below
 * one directory, and that can end the process just before one of them.
 *
 *   DISK_ROOT   the directory; an absolute path
 *   DISK_LOG    where the calls are written down
 *   DISK_MARKS  what is written to this file is not, but stands in the log as a mark
 *   DISK_KILL   the call (from 1 on, marks are none) before which the process is killed
 *
 * A record: kind (1 byte), file descriptor (4), offset (8), lengths of path and data (4 each), path, data. All little-endian, as the
 * machine is.
 *
 * Calls are made one at a time, so the order of the log is that of their effects. What is mapped into memory is not seen: of what SQLite
 * writes that is its index of the log alone (`-shm`), which it makes anew.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPENED = 1, CREATED, WRITTEN, CUT, SYNCED, MADE_DIR, REMOVED, RENAMED, MARK };

#define DESCRIPTORS 4096
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root, *marks;
static int log_fd = -1;
static long kill_at, calls;
/* What a descriptor is of: nothing of ours, something below the root, the marks. */
static char ours[DESCRIPTORS];

__attribute__((constructor)) static void begin(void) {
    root = getenv("DISK_ROOT");
    marks = getenv("DISK_MARKS");
    const char *at = getenv("DISK_KILL"), *path = getenv("DISK_LOG");
    kill_at = at ? atol(at) : 0;
    if (root && path) log_fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static int is_below(const char *path) {
    size_t length = root ? strlen(root) : 0;
    return log_fd >= 0 && path && strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int of(int fd) { return log_fd >= 0 && fd >= 0 && fd < DESCRIPTORS ? ours[fd] : 0; }

static void note(enum kind kind, int fd, uint64_t offset, const char *path, const void *data, uint32_t length) {
    int saved = errno;
    uint32_t path_length = path ? strlen(path) : 0;
    char head[21];
    head[0] = kind;
    memcpy(head + 1, &fd, 4);
    memcpy(head + 5, &offset, 8);
    memcpy(head + 13, &path_length, 4);
    memcpy(head + 17, &length, 4);
    struct iovec parts[] = {{head, sizeof head}, {(void *)path, path_length}, {(void *)data, length}};
    ssize_t all = sizeof head + path_length + length;
    ssize_t done = syscall(SYS_writev, log_fd, parts, 3);
    if (done != all) abort();
    errno = saved;
}

/* Before a call that changes something. */
static void count(void) {
    if (++calls == kill_at) raise(SIGKILL);
}

static int opened(int at, const char *path, int flags, mode_t mode) {
    if (!is_below(path)) {
        int fd = syscall(SYS_openat, at, path, flags, mode);
        if (fd >= 0 && fd < DESCRIPTORS) ours[fd] = marks && path && strcmp(path, marks) == 0 ? 2 : 0;
        return fd;
    }
    pthread_mutex_lock(&lock);
    struct stat info;
    int is_new = (flags & O_CREAT) && syscall(SYS_newfstatat, at, path, &info, 0) != 0;
    if (is_new || (flags & O_TRUNC)) count();
    int fd = syscall(SYS_openat, at, path, flags, mode);
    if (fd >= DESCRIPTORS) abort();
    if (fd >= 0) {
        ours[fd] = 1;
        note(is_new ? CREATED : OPENED, fd, 0, path, NULL, 0);
        if (!is_new && (flags & O_TRUNC)) note(CUT, fd, 0, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name, ...)                                     \
    int name(__VA_ARGS__, int flags, ...) {                 \
        mode_t mode = 0;                                    \
        if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) { \
            va_list more;                                   \
            va_start(more, flags);                          \
            mode = va_arg(more, mode_t);                    \
            va_end(more);                                   \
        }                                                   \
        return opened(AT, path, flags, mode);               \
    }
#define AT AT_FDCWD
OPEN(open, const char *path)
OPEN(open64, const char *path)
#undef AT
#define AT at
OPEN(openat, int at, const char *path)
OPEN(openat64, int at, const char *path)

int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    if (fd >= 0 && fd < DESCRIPTORS) {
        pthread_mutex_lock(&lock);
        ours[fd] = 0;
        int done = syscall(SYS_close, fd);
        pthread_mutex_unlock(&lock);
        return done;
    }
    return syscall(SYS_close, fd);
}

ssize_t write(int fd, const void *data, size_t length) {
    int whose = of(fd);
    if (!whose) return syscall(SYS_write, fd, data, length);
    pthread_mutex_lock(&lock);
    ssize_t done = length;
    if (whose == 2) {
        note(MARK, fd, 0, NULL, data, length);
    } else {
        count();
        int appends = syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND;
        off_t offset = syscall(SYS_lseek, fd, 0, appends ? SEEK_END : SEEK_CUR);
        done = syscall(SYS_write, fd, data, length);
        if (done > 0) note(WRITTEN, fd, offset, NULL, data, done);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    if (of(fd) != 1) return syscall(SYS_pwrite64, fd, data, length, offset);
    pthread_mutex_lock(&lock);
    count();
    ssize_t done = syscall(SYS_pwrite64, fd, data, length, offset);
    if (done > 0) note(WRITTEN, fd, offset, NULL, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return pwrite(fd, data, length, offset); }

/* Calls that nothing here makes today: whoever begins to is told that this is blind to them. */
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (of(fd) == 1) abort();
    return syscall(SYS_writev, fd, parts, count);
}
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t length, unsigned flags) {
    if (of(to) == 1) {
        errno = EXDEV;
        return -1;
    }
    return syscall(SYS_copy_file_range, from, at, to, there, length, flags);
}
int link(const char *from, const char *to) {
    if (is_below(to)) abort();
    return syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int ftruncate(int fd, off_t length) {
    if (of(fd) != 1) return syscall(SYS_ftruncate, fd, length);
    pthread_mutex_lock(&lock);
    count();
    int done = syscall(SYS_ftruncate, fd, length);
    if (done == 0) note(CUT, fd, length, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

static int synced(int fd, int call) {
    if (of(fd) != 1) return syscall(call, fd);
    pthread_mutex_lock(&lock);
    count();
    int done = syscall(call, fd);
    if (done == 0) note(SYNCED, fd, 0, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int mkdir(const char *path, mode_t mode) {
    if (!is_below(path)) return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    pthread_mutex_lock(&lock);
    count();
    int done = syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (done == 0) note(MADE_DIR, -1, 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

static int removed(int at, const char *path, int flags) {
    if (!is_below(path)) {
        /* Relative to a directory: only whole trees are removed so. */
        if (of(at) == 1) abort();
        return syscall(SYS_unlinkat, at, path, flags);
    }
    pthread_mutex_lock(&lock);
    count();
    int done = syscall(SYS_unlinkat, at, path, flags);
    if (done == 0) note(REMOVED, -1, 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int at, const char *path, int flags) { return removed(at, path, flags); }

int rename(const char *from, const char *to) {
    if (!is_below(from) && !is_below(to)) return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    pthread_mutex_lock(&lock);
    count();
    int done = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (done == 0) note(RENAMED, -1, 0, from, to, strlen(to));
    pthread_mutex_unlock(&lock);
    return done;
}
