/* The sample of the reference's WaitForCompletion page, written anew for C: compact a
 * disk, and wait for that no longer than some seconds.
 *
 *   compact_with_timeout IMAGE SECONDS */
#include <slimdisk.h>

#include <stdio.h>
#include <stdlib.h>

/* Compacts the disk and waits for the end. A wait without an end is not offered: `seconds`
 * must be at least 1. Both refusals are E_INVALIDARG. */
static HRESULT compact_with_timeout(IVMHardDisk *disk, int32_t seconds)
{
    IVMTask *task = NULL;
    HRESULT result;

    if (disk == NULL || seconds < 1 || seconds > INT32_MAX / 1000)
        return E_INVALIDARG;

    result = slimdisk_IVMHardDisk_Compact(disk, &task);
    if (FAILED(result))
        return result;

    result = slimdisk_IVMTask_WaitForCompletion(task, seconds * 1000);
    slimdisk_Release(task);
    return result;
}

static int tell(const char *what, HRESULT result)
{
    char *why = NULL;

    fprintf(stderr, "%s: 0x%08lX", what, (unsigned long)(uint32_t)result);
    if (slimdisk_LastErrorDescription(&why) == S_OK) {
        fprintf(stderr, ": %s", why);
        slimdisk_FreeString(why);
    }
    fputc('\n', stderr);
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    IVMVirtualServer *server = NULL;
    IVMHardDisk *disk = NULL;
    uint64_t before = 0, after = 0;
    size_t left = 1;
    HRESULT result;

    if (argc != 3) {
        fprintf(stderr, "usage: compact_with_timeout IMAGE SECONDS\n");
        return 2;
    }
    if (compact_with_timeout(NULL, 1) != E_INVALIDARG)
        return EXIT_FAILURE;

    result = slimdisk_CreateVirtualServer(NULL, &server);
    if (FAILED(result))
        return tell("no server", result);
    result = slimdisk_IVMVirtualServer_GetHardDisk(server, argv[1], &disk);
    if (FAILED(result)) {
        slimdisk_Release(server);
        return tell("no disk", result);
    }
    if (compact_with_timeout(disk, 0) != E_INVALIDARG)
        return EXIT_FAILURE;

    slimdisk_IVMHardDisk_get_SizeOnHost(disk, &before);
    result = compact_with_timeout(disk, atoi(argv[2]));
    slimdisk_IVMHardDisk_get_SizeOnHost(disk, &after);
    if (SUCCEEDED(result))
        printf("%llu bytes before, %llu after\n", (unsigned long long)before,
               (unsigned long long)after);
    slimdisk_Release(disk);
    /* Whatever still ran has stopped at a sound point when this returns. */
    slimdisk_VirtualServer_ShutDown(server);
    slimdisk_Release(server);
    if (FAILED(result))
        return tell("not compacted", result);
    slimdisk_OpenHandles(&left);
    return left == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
