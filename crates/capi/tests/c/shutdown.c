/* Whoever asks for an operation while the server shuts down gets VM_E_APP_SHUTTING_DOWN,
 * and the task that ran meanwhile has stopped when the shutdown returns.
 *
 *   shutdown IMAGE CHILD NEW-FILE-PREFIX
 *
 * IMAGE must be large enough that compacting it takes a while. */
#include "check.h"

#include <pthread.h>

static IVMVirtualServer *server;

static void *shut_down(void *nothing)
{
    (void)nothing;
    EXPECT(S_OK, slimdisk_VirtualServer_ShutDown(server));
    return NULL;
}

static const char *beside(char *buffer, size_t size, const char *prefix, const char *name)
{
    CHECK(snprintf(buffer, size, "%s%s", prefix, name) < (int)size);
    return buffer;
}

int main(int argc, char **argv)
{
    IVMHardDisk *disk, *child, *other;
    IVMTask *running = NULL, *task = NULL;
    VARIANT_BOOL shutting_down = VARIANT_FALSE, complete = VARIANT_TRUE;
    VMTaskResult result = -1;
    pthread_t thread;
    char path[512];
    uint64_t size;
    int32_t percent = -1, error = -1;

    if (argc != 4)
        return 2;
    server = check_server();
    disk = check_open(server, argv[1]);
    child = check_open(server, argv[2]);
    EXPECT(S_OK, slimdisk_HardDisk_Compact(disk, SLIMDISK_MODE_FULL,
                                           SLIMDISK_FLAG_VERIFY, &running));
    EXPECT(S_OK, slimdisk_VirtualServer_get_IsShuttingDown(server, &shutting_down));
    CHECK(shutting_down == VARIANT_FALSE);
    CHECK(pthread_create(&thread, NULL, shut_down, NULL) == 0);
    while (shutting_down == VARIANT_FALSE)
        EXPECT(S_OK, slimdisk_VirtualServer_get_IsShuttingDown(server, &shutting_down));
    CHECK(shutting_down == VARIANT_TRUE);

    /* Another image than the running task's, which would be in use. */
    EXPECT(VM_E_APP_SHUTTING_DOWN, slimdisk_IVMHardDisk_Compact(child, &task));
    CHECK(task == NULL);
    EXPECT(VM_E_APP_SHUTTING_DOWN,
           slimdisk_IVMHardDisk_Convert(child, beside(path, sizeof path, argv[3], "c.vhd"),
                                        vmDiskType_Dynamic, &task));
    EXPECT(VM_E_APP_SHUTTING_DOWN, slimdisk_IVMHardDisk_Merge(child, &task));
    EXPECT(VM_E_APP_SHUTTING_DOWN,
           slimdisk_IVMHardDisk_MergeTo(child, beside(path, sizeof path, argv[3], "m.vhd"),
                                        vmDiskType_FixedSize, &task));
    EXPECT(VM_E_APP_SHUTTING_DOWN,
           slimdisk_IVMVirtualServer_CreateDynamicVirtualHardDisk(
               server, beside(path, sizeof path, argv[3], "d.vhd"), 8, &task));
    EXPECT(VM_E_APP_SHUTTING_DOWN,
           slimdisk_IVMVirtualServer_CreateFixedVirtualHardDisk(
               server, beside(path, sizeof path, argv[3], "f.vhd"), 8, &task));
    EXPECT(VM_E_APP_SHUTTING_DOWN,
           slimdisk_IVMVirtualServer_CreateDifferencingVirtualHardDisk(
               server, beside(path, sizeof path, argv[3], "x.vhd"), argv[2], &task));
    EXPECT(VM_E_APP_SHUTTING_DOWN,
           slimdisk_IVMVirtualServer_CreateHostDriveVirtualHardDisk(
               server, beside(path, sizeof path, argv[3], "h.vhd"), "C:", VARIANT_FALSE,
               &task));
    EXPECT(VM_E_APP_SHUTTING_DOWN,
           slimdisk_IVMVirtualServer_CreateFloppyDiskImage(
               server, beside(path, sizeof path, argv[3], "f.vfd"),
               vmFloppyDiskImage_HighDensity));
    other = check_open(server, argv[1]);
    EXPECT(VM_E_APP_SHUTTING_DOWN, slimdisk_IVMHardDisk_put_Parent(child, other));
    CHECK(task == NULL);
    /* What only looks still answers. */
    EXPECT(S_OK, slimdisk_IVMHardDisk_get_SizeInGuest(child, &size));

    CHECK(pthread_join(thread, NULL) == 0);
    EXPECT(S_OK, slimdisk_IVMTask_get_IsComplete(running, &complete));
    EXPECT(S_OK, slimdisk_IVMTask_get_Result(running, &result));
    EXPECT(S_OK, slimdisk_IVMTask_get_PercentCompleted(running, &percent));
    EXPECT(S_OK, slimdisk_IVMTask2_get_Error(running, &error));
    CHECK(complete == VARIANT_TRUE);
    printf("result %d at %d %%\n", (int)result, (int)percent);
    CHECK(result == vmTaskResult_Cancelled && percent < 100 && error == S_OK);
    EXPECT(E_FAIL, slimdisk_IVMTask_Cancel(running));

    EXPECT(S_OK, slimdisk_Release(running));
    EXPECT(S_OK, slimdisk_Release(other));
    EXPECT(S_OK, slimdisk_Release(child));
    EXPECT(S_OK, slimdisk_Release(disk));
    EXPECT(S_OK, slimdisk_Release(server));
    check_nothing_is_left();
    return 0;
}
