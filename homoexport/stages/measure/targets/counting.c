/* A plugin for QEMU's user emulators: the instructions that a process has run so far.
 *
 * Whenever the process writes, the number is put at the beginning of the file OUT/PID, so that whoever reads an answer
 * of the process finds there what the process had run by then. Arguments: out=FOLDER, write=NUMBER (of the system
 * call). VERSION is that of the interface, see https://www.qemu.org/docs/master/devel/tcg-plugins.html; it is declared
 * here, for Debian has no header of it.
 */

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

struct qemu_plugin_tb;
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(
    struct qemu_plugin_tb *, void (*)(unsigned, void *), int flags, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(
    uint64_t, void (*)(uint64_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                       uint64_t, uint64_t));

EXPORTED int qemu_plugin_version = VERSION;
static uint64_t count;
static int64_t write_number;
static int file = -1;

static void executed(unsigned vcpu, void *instructions)
{
    __atomic_fetch_add(&count, (uintptr_t)instructions, __ATOMIC_RELAXED);
}

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void called(uint64_t id, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    uint64_t now = __atomic_load_n(&count, __ATOMIC_RELAXED);
    if (number == write_number && pwrite(file, &now, sizeof now, 0) != sizeof now)
        _exit(1);
}

EXPORTED int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    char path[4096];
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0) {
            snprintf(path, sizeof path, "%s/%d", argv[i] + 4, (int)getpid());
            file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        } else if (strncmp(argv[i], "write=", 6) == 0) {
            write_number = atoi(argv[i] + 6);
        }
    }
    if (file < 0)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
