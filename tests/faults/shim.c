/* Lets the system's calls that write fail from one of them on, for files under one folder. Preloaded by test_faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long calls, first = LONG_MAX;
static int number, halves, all;

/* From the call with this number on, counted from 0, every one fails with `error`; or it writes a half, and those after
   it fail. `everything`: also those that make, move and remove files, as on a file system that became read-only. */
void fault_arm(const char *folder, long from, int error, int half, int everything) {
    snprintf(root, sizeof root, "%s/", folder);
    calls = 0, first = from, number = error, halves = half, all = everything;
}

long fault_calls(void) { return calls; }

static int inside(const char *path) {
    char whole[PATH_MAX * 2];
    if (path[0] != '/') {
        char here[PATH_MAX];
        snprintf(whole, sizeof whole, "%s/%s", getcwd(here, sizeof here) ? here : "", path);
        path = whole;
    }
    return root[0] && strncmp(path, root, strlen(root)) == 0;
}

static int inside_fd(int fd) {
    char link[64], path[PATH_MAX];
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

static int inside_at(int folder, const char *path) {
    return path[0] == '/' || folder == AT_FDCWD ? inside(path) : inside_fd(folder);
}

static int fails(void) {
    if (calls++ < first) return 0;
    errno = number;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size) {
    if (inside_fd(fd) && fails()) {
        if (halves && calls - 1 == first && size > 1) return REAL(write)(fd, data, size / 2);
        return -1;
    }
    return REAL(write)(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    return inside_fd(fd) && fails() ? -1 : REAL(pwrite)(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    return inside_fd(fd) && fails() ? -1 : REAL(pwrite64)(fd, data, size, at);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return inside_fd(fd) && fails() ? -1 : REAL(writev)(fd, parts, count);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    ssize_t (*real)(int, int, off64_t *, size_t) = dlsym(RTLD_NEXT, "sendfile64");
    return inside_fd(to) && fails() ? -1 : real(to, from, at, size);
}
int fsync(int fd) { return inside_fd(fd) && fails() ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return inside_fd(fd) && fails() ? -1 : REAL(fdatasync)(fd); }
int ftruncate(int fd, off_t size) { return inside_fd(fd) && fails() ? -1 : REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { return inside_fd(fd) && fails() ? -1 : REAL(ftruncate64)(fd, size); }
int mkdir(const char *path, mode_t mode) { return inside(path) && fails() ? -1 : REAL(mkdir)(path, mode); }
int rename(const char *from, const char *to) { return all && inside(to) && fails() ? -1 : REAL(rename)(from, to); }
int renameat2(int at, const char *from, int to_at, const char *to, unsigned flags) {
    return all && inside(to) && fails() ? -1 : REAL(renameat2)(at, from, to_at, to, flags);
}
int unlink(const char *path) { return all && inside(path) && fails() ? -1 : REAL(unlink)(path); }
int rmdir(const char *path) { return all && inside(path) && fails() ? -1 : REAL(rmdir)(path); }
int chmod(const char *path, mode_t mode) { return all && inside(path) && fails() ? -1 : REAL(chmod)(path, mode); }
int unlinkat(int folder, const char *path, int flags) {
    return all && inside_at(folder, path) && fails() ? -1 : REAL(unlinkat)(folder, path, flags);
}

#define OPENING(name, folder, ...)                                                    \
    mode_t mode = 0;                                                                  \
    if (flags & O_CREAT) {                                                            \
        va_list more;                                                                 \
        va_start(more, flags);                                                        \
        mode = va_arg(more, mode_t);                                                  \
        va_end(more);                                                                 \
    }                                                                                 \
    int writes = (flags & O_CREAT) || (all && (flags & O_ACCMODE) != O_RDONLY);       \
    return writes && inside_at(folder, path) && fails() ? -1 : REAL(name)(__VA_ARGS__, mode)

int open(const char *path, int flags, ...) { OPENING(open, AT_FDCWD, path, flags); }
int open64(const char *path, int flags, ...) { OPENING(open64, AT_FDCWD, path, flags); }
int openat(int folder, const char *path, int flags, ...) { OPENING(openat, folder, folder, path, flags); }
int openat64(int folder, const char *path, int flags, ...) { OPENING(openat64, folder, folder, path, flags); }
