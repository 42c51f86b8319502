/* Every function with every pointer that it has to NULL, to garbage, to a handle of
 * another type and to one that was released: E_POINTER, and nothing is touched.
 *
 *   pointers IMAGE */
#include "check.h"

static char *const MARK = (char *)"not touched";

int main(int argc, char **argv)
{
    IVMVirtualServer *server = check_server();
    IVMHardDisk *disk, *wrong_disk, *old_disk, *out_disk;
    IVMTaskCollection *tasks = NULL, *out_tasks;
    IEnumVMTask *enumerator = NULL, *out_enumerator;
    SlimdiskStringList *list = NULL, *out_list;
    IVMSecurity *security;
    IVMTask *task, *out_task;
    const char *path, *none = NULL;
    void *wrong[4];
    uint64_t size;
    uint32_t fetched;
    int32_t value;
    VARIANT_BOOL truth;
    char *string;
    int index;

    if (argc != 2)
        return 2;
    path = argv[1];
    disk = check_open(server, path);
    old_disk = check_open(server, path);
    EXPECT(S_OK, slimdisk_Release(old_disk));
    wrong_disk = (IVMHardDisk *)server;
    EXPECT(S_OK, slimdisk_IVMVirtualServer_get_Tasks(server, &tasks));
    EXPECT(S_OK, slimdisk_IVMTaskCollection_get__NewEnum(tasks, &enumerator));
    EXPECT(S_OK, slimdisk_IVMVirtualServer_get_SearchPaths(server, &list));
    EXPECT(S_OK, slimdisk_HardDisk_Compact(disk, SLIMDISK_MODE_PREZEROED, 0, &task));
    EXPECT(S_OK, slimdisk_IVMTask_WaitForCompletion(task, -1));

    /* Places for results that are NULL. */
    EXPECT(E_POINTER, slimdisk_AbiVersion(NULL));
    EXPECT(E_POINTER, slimdisk_Version(NULL));
    EXPECT(E_POINTER, slimdisk_LastErrorDescription(NULL));
    EXPECT(E_POINTER, slimdisk_OpenHandles(NULL));
    EXPECT(S_OK, slimdisk_FreeString(NULL));
    EXPECT(E_POINTER, slimdisk_StringList_get_Count(list, NULL));
    EXPECT(E_POINTER, slimdisk_StringList_get_Item(list, 0, NULL));
    EXPECT(E_POINTER, slimdisk_CreateVirtualServer(NULL, NULL));
    EXPECT(E_POINTER, slimdisk_VirtualServer_get_IsShuttingDown(server, NULL));
    EXPECT(E_POINTER, slimdisk_IVMVirtualServer_GetHardDisk(server, path, NULL));
    EXPECT(E_POINTER, slimdisk_IVMVirtualServer_GetHardDiskFiles(server, NULL, 0, NULL));
    EXPECT(E_POINTER, slimdisk_IVMVirtualServer_CreateDynamicVirtualHardDisk(
                          server, "/no/where.vhd", 8, NULL));
    EXPECT(E_POINTER, slimdisk_IVMVirtualServer_CreateFixedVirtualHardDisk(
                          server, "/no/where.vhd", 8, NULL));
    EXPECT(E_POINTER, slimdisk_IVMVirtualServer_CreateDifferencingVirtualHardDisk(
                          server, "/no/where.vhd", path, NULL));
    EXPECT(E_POINTER, slimdisk_IVMVirtualServer_CreateHostDriveVirtualHardDisk(
                          server, "/no/where.vhd", "C:", VARIANT_FALSE, NULL));
    EXPECT(E_POINTER, slimdisk_IVMVirtualServer_get_Tasks(server, NULL));
    EXPECT(E_POINTER, slimdisk_IVMVirtualServer_get_SearchPaths(server, NULL));
    EXPECT(E_POINTER, slimdisk_IVMVirtualServer_get_Version(server, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_Compact(disk, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_Convert(disk, "/no/where.vhd", 0, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_Merge(disk, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_MergeTo(disk, "/no/where.vhd", 0, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_get_File(disk, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_get_HostDriveIdentifier(disk, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_get_HostFreeDiskSpace(disk, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_get_Parent(disk, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_put_Parent(disk, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_get_Security(disk, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_get_SizeInGuest(disk, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_get_SizeOnHost(disk, NULL));
    EXPECT(E_POINTER, slimdisk_IVMHardDisk_get_Type(disk, NULL));
    EXPECT(E_POINTER, slimdisk_IVMTask_get_Description(task, NULL));
    EXPECT(E_POINTER, slimdisk_IVMTask_get_ID(task, NULL));
    EXPECT(E_POINTER, slimdisk_IVMTask_get_IsCancelable(task, NULL));
    EXPECT(E_POINTER, slimdisk_IVMTask_get_IsComplete(task, NULL));
    EXPECT(E_POINTER, slimdisk_IVMTask_get_PercentCompleted(task, NULL));
    EXPECT(E_POINTER, slimdisk_IVMTask_get_Result(task, NULL));
    EXPECT(E_POINTER, slimdisk_IVMTask2_get_Error(task, NULL));
    EXPECT(E_POINTER, slimdisk_IVMTask2_get_ErrorDescription(task, NULL));
    EXPECT(E_POINTER, slimdisk_IVMTaskCollection_get_Count(tasks, NULL));
    EXPECT(E_POINTER, slimdisk_IVMTaskCollection_get_Item(tasks, 1, NULL));
    EXPECT(E_POINTER, slimdisk_IVMTaskCollection_get__NewEnum(tasks, NULL));
    EXPECT(E_POINTER, slimdisk_IEnumVMTask_Next(enumerator, 1, NULL, &fetched));
    EXPECT(E_POINTER, slimdisk_IEnumVMTask_Next(enumerator, 2, &out_task, NULL));
    EXPECT(E_POINTER, slimdisk_IEnumVMTask_Clone(enumerator, NULL));
    EXPECT(E_POINTER, slimdisk_HardDisk_Compact(disk, 0, 0, NULL));
    EXPECT(E_POINTER, slimdisk_HardDisk_Plan(disk, 0, 0, NULL));
    EXPECT(E_POINTER, slimdisk_HardDisk_Convert(disk, "/no/where.vhd", 0, 0, 0, NULL));
    EXPECT(E_POINTER, slimdisk_HardDisk_Merge(disk, 0, NULL));
    EXPECT(E_POINTER, slimdisk_HardDisk_MergeTo(disk, "/no/where.vhd", 0, 0, 0, NULL));
    EXPECT(E_POINTER, slimdisk_HardDisk_get_Chain(disk, NULL));
    EXPECT(E_POINTER, slimdisk_Task_get_Phase(task, NULL));
    EXPECT(E_POINTER, slimdisk_Task_get_BytesDone(task, NULL));
    EXPECT(E_POINTER, slimdisk_Task_get_BytesTotal(task, NULL));
    EXPECT(E_POINTER, slimdisk_Task_get_BytesPerSecond(task, NULL));
    EXPECT(E_POINTER, slimdisk_Task_get_TimeLeft(task, NULL));
    EXPECT(E_POINTER, slimdisk_Task_get_Report(task, NULL));

    /* Text that is NULL; the result is cleared all the same. */
#define CLEARED(result, value, call)                                                  \
    do {                                                                              \
        memset(&(value), 0x5A, sizeof(value));                                        \
        EXPECT(result, call);                                                         \
        CHECK((value) == 0);                                                          \
    } while (0)
    CLEARED(E_POINTER, out_disk,
            slimdisk_IVMVirtualServer_GetHardDisk(server, NULL, &out_disk));
    CLEARED(E_INVALIDARG, out_list,
            slimdisk_IVMVirtualServer_GetHardDiskFiles(server, NULL, 1, &out_list));
    CLEARED(E_INVALIDARG, out_list,
            slimdisk_IVMVirtualServer_GetHardDiskFiles(server, &none, 1, &out_list));
    CLEARED(E_POINTER, out_task,
            slimdisk_IVMVirtualServer_CreateDynamicVirtualHardDisk(server, NULL, 8,
                                                                   &out_task));
    CLEARED(E_POINTER, out_task,
            slimdisk_IVMVirtualServer_CreateFixedVirtualHardDisk(server, NULL, 8,
                                                                 &out_task));
    CLEARED(E_POINTER, out_task,
            slimdisk_IVMVirtualServer_CreateDifferencingVirtualHardDisk(
                server, NULL, path, &out_task));
    CLEARED(E_POINTER, out_task,
            slimdisk_IVMVirtualServer_CreateDifferencingVirtualHardDisk(
                server, "/no/where.vhd", NULL, &out_task));
    CLEARED(E_POINTER, out_task,
            slimdisk_IVMVirtualServer_CreateHostDriveVirtualHardDisk(
                server, NULL, "C:", VARIANT_FALSE, &out_task));
    CLEARED(E_POINTER, out_task,
            slimdisk_IVMVirtualServer_CreateHostDriveVirtualHardDisk(
                server, "/no/where.vhd", NULL, VARIANT_FALSE, &out_task));
    EXPECT(E_POINTER, slimdisk_IVMVirtualServer_CreateFloppyDiskImage(
                          server, NULL, vmFloppyDiskImage_HighDensity));
    EXPECT(E_POINTER, slimdisk_IVMVirtualServer_put_SearchPaths(server, NULL, 1));
    EXPECT(E_INVALIDARG, slimdisk_IVMVirtualServer_put_SearchPaths(server, &none, 1));
    CLEARED(E_POINTER, out_task, slimdisk_IVMHardDisk_Convert(disk, NULL, 0, &out_task));
    CLEARED(E_POINTER, out_task, slimdisk_IVMHardDisk_MergeTo(disk, NULL, 0, &out_task));
    CLEARED(E_POINTER, out_task,
            slimdisk_HardDisk_Convert(disk, NULL, 0, 0, 0, &out_task));
    CLEARED(E_POINTER, out_task,
            slimdisk_HardDisk_MergeTo(disk, NULL, 0, 0, 0, &out_task));

    /* Objects that are none: NULL, garbage, another type, released. */
    wrong[0] = NULL;
    wrong[1] = MARK;
    wrong[2] = NULL; /* of another type, set below */
    wrong[3] = old_disk;
    for (index = 0; index < 4; index++) {
        IVMVirtualServer *s = index == 2 ? (IVMVirtualServer *)disk : wrong[index];
        IVMHardDisk *d = index == 2 ? wrong_disk : wrong[index];
        IVMTask *t = index == 2 ? (IVMTask *)disk : wrong[index];
        IVMTaskCollection *c = index == 2 ? (IVMTaskCollection *)disk : wrong[index];
        IEnumVMTask *e = index == 2 ? (IEnumVMTask *)tasks : wrong[index];
        SlimdiskStringList *l = index == 2 ? (SlimdiskStringList *)disk : wrong[index];

        if (index != 2) {
            EXPECT(E_POINTER, slimdisk_AddRef(wrong[index]));
            EXPECT(E_POINTER, slimdisk_Release(wrong[index]));
        }
        CLEARED(E_POINTER, value, slimdisk_StringList_get_Count(l, &value));
        CLEARED(E_POINTER, string, slimdisk_StringList_get_Item(l, 0, &string));
        EXPECT(E_POINTER, slimdisk_VirtualServer_ShutDown(s));
        CLEARED(E_POINTER, truth, slimdisk_VirtualServer_get_IsShuttingDown(s, &truth));
        CLEARED(E_POINTER, out_disk,
                slimdisk_IVMVirtualServer_GetHardDisk(s, path, &out_disk));
        CLEARED(E_POINTER, out_list,
                slimdisk_IVMVirtualServer_GetHardDiskFiles(s, NULL, 0, &out_list));
        CLEARED(E_POINTER, out_task,
                slimdisk_IVMVirtualServer_CreateDynamicVirtualHardDisk(
                    s, "/no/where.vhd", 8, &out_task));
        CLEARED(E_POINTER, out_task,
                slimdisk_IVMVirtualServer_CreateFixedVirtualHardDisk(
                    s, "/no/where.vhd", 8, &out_task));
        CLEARED(E_POINTER, out_task,
                slimdisk_IVMVirtualServer_CreateDifferencingVirtualHardDisk(
                    s, "/no/where.vhd", path, &out_task));
        CLEARED(E_POINTER, out_task,
                slimdisk_IVMVirtualServer_CreateHostDriveVirtualHardDisk(
                    s, "/no/where.vhd", "C:", VARIANT_FALSE, &out_task));
        EXPECT(E_POINTER, slimdisk_IVMVirtualServer_CreateFloppyDiskImage(
                              s, "/no/where.vfd", vmFloppyDiskImage_LowDensity));
        CLEARED(E_POINTER, out_tasks, slimdisk_IVMVirtualServer_get_Tasks(s, &out_tasks));
        CLEARED(E_POINTER, out_list,
                slimdisk_IVMVirtualServer_get_SearchPaths(s, &out_list));
        EXPECT(E_POINTER, slimdisk_IVMVirtualServer_put_SearchPaths(s, NULL, 0));
        CLEARED(E_POINTER, string, slimdisk_IVMVirtualServer_get_Version(s, &string));
        CLEARED(E_POINTER, out_task, slimdisk_IVMHardDisk_Compact(d, &out_task));
        CLEARED(E_POINTER, out_task,
                slimdisk_IVMHardDisk_Convert(d, "/no/where.vhd", 0, &out_task));
        CLEARED(E_POINTER, out_task, slimdisk_IVMHardDisk_Merge(d, &out_task));
        CLEARED(E_POINTER, out_task,
                slimdisk_IVMHardDisk_MergeTo(d, "/no/where.vhd", 0, &out_task));
        CLEARED(E_POINTER, string, slimdisk_IVMHardDisk_get_File(d, &string));
        CLEARED(E_POINTER, string,
                slimdisk_IVMHardDisk_get_HostDriveIdentifier(d, &string));
        CLEARED(E_POINTER, size, slimdisk_IVMHardDisk_get_HostFreeDiskSpace(d, &size));
        CLEARED(E_POINTER, out_disk, slimdisk_IVMHardDisk_get_Parent(d, &out_disk));
        EXPECT(E_POINTER, slimdisk_IVMHardDisk_put_Parent(d, disk));
        EXPECT(E_POINTER, slimdisk_IVMHardDisk_put_Parent(disk, d));
        CLEARED(E_POINTER, security, slimdisk_IVMHardDisk_get_Security(d, &security));
        CLEARED(E_POINTER, size, slimdisk_IVMHardDisk_get_SizeInGuest(d, &size));
        CLEARED(E_POINTER, size, slimdisk_IVMHardDisk_get_SizeOnHost(d, &size));
        CLEARED(E_POINTER, value, slimdisk_IVMHardDisk_get_Type(d, &value));
        EXPECT(E_POINTER, slimdisk_IVMTask_WaitForCompletion(t, 0));
        EXPECT(E_POINTER, slimdisk_IVMTask_Cancel(t));
        CLEARED(E_POINTER, string, slimdisk_IVMTask_get_Description(t, &string));
        CLEARED(E_POINTER, value, slimdisk_IVMTask_get_ID(t, &value));
        CLEARED(E_POINTER, truth, slimdisk_IVMTask_get_IsCancelable(t, &truth));
        CLEARED(E_POINTER, truth, slimdisk_IVMTask_get_IsComplete(t, &truth));
        CLEARED(E_POINTER, value, slimdisk_IVMTask_get_PercentCompleted(t, &value));
        CLEARED(E_POINTER, value, slimdisk_IVMTask_get_Result(t, &value));
        CLEARED(E_POINTER, value, slimdisk_IVMTask2_get_Error(t, &value));
        CLEARED(E_POINTER, string, slimdisk_IVMTask2_get_ErrorDescription(t, &string));
        CLEARED(E_POINTER, value, slimdisk_IVMTaskCollection_get_Count(c, &value));
        CLEARED(E_POINTER, out_task,
                slimdisk_IVMTaskCollection_get_Item(c, 1, &out_task));
        CLEARED(E_POINTER, out_enumerator,
                slimdisk_IVMTaskCollection_get__NewEnum(c, &out_enumerator));
        CLEARED(E_POINTER, out_task, slimdisk_IEnumVMTask_Next(e, 1, &out_task, NULL));
        EXPECT(E_POINTER, slimdisk_IEnumVMTask_Skip(e, 1));
        EXPECT(E_POINTER, slimdisk_IEnumVMTask_Reset(e));
        CLEARED(E_POINTER, out_enumerator,
                slimdisk_IEnumVMTask_Clone(e, &out_enumerator));
        CLEARED(E_POINTER, out_task, slimdisk_HardDisk_Compact(d, 0, 0, &out_task));
        CLEARED(E_POINTER, string, slimdisk_HardDisk_Plan(d, 0, 0, &string));
        CLEARED(E_POINTER, out_task,
                slimdisk_HardDisk_Convert(d, "/no/where.vhd", 0, 0, 0, &out_task));
        CLEARED(E_POINTER, out_task, slimdisk_HardDisk_Merge(d, 0, &out_task));
        CLEARED(E_POINTER, out_task,
                slimdisk_HardDisk_MergeTo(d, "/no/where.vhd", 0, 0, 0, &out_task));
        CLEARED(E_POINTER, string, slimdisk_HardDisk_get_Chain(d, &string));
        CLEARED(E_POINTER, value, slimdisk_Task_get_Phase(t, &value));
        CLEARED(E_POINTER, size, slimdisk_Task_get_BytesDone(t, &size));
        CLEARED(E_POINTER, size, slimdisk_Task_get_BytesTotal(t, &size));
        CLEARED(E_POINTER, size, slimdisk_Task_get_BytesPerSecond(t, &size));
        CLEARED(E_POINTER, size, slimdisk_Task_get_TimeLeft(t, &size));
        CLEARED(E_POINTER, string, slimdisk_Task_get_Report(t, &string));
    }
    CHECK(strcmp(MARK, "not touched") == 0);

    EXPECT(S_OK, slimdisk_Release(task));
    EXPECT(S_OK, slimdisk_Release(list));
    EXPECT(S_OK, slimdisk_Release(enumerator));
    EXPECT(S_OK, slimdisk_Release(tasks));
    EXPECT(S_OK, slimdisk_Release(disk));
    EXPECT(S_OK, slimdisk_VirtualServer_ShutDown(server));
    EXPECT(S_OK, slimdisk_Release(server));
    check_nothing_is_left();
    return 0;
}
