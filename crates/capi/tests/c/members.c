/* Every member in use: disks made, asked, converted, chained, merged, and their tasks.
 *
 *   members FOLDER        (empty; what is made in it stays for others to judge) */
#include "check.h"

static char folder[400];

#ifdef _WIN32
#define SEPARATOR '\\'
#else
#define SEPARATOR '/'
#endif

/* A path, with the separators of the system. */
static const char *path_of(const char *start, const char *name)
{
    static char paths[8][512];
    static int next;
    char *at;
    next = (next + 1) % 8;
    CHECK(snprintf(paths[next], sizeof *paths, "%s/%s", start, name) <
          (int)sizeof *paths);
    for (at = paths[next]; *at; at++)
        if (*at == '/')
            *at = SEPARATOR;
    return paths[next];
}

static const char *in(const char *name)
{
    return path_of(folder, name);
}

static int contains(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

/* Whether a path ends so, from a whole name on. */
static int leads_to(const char *text, const char *end)
{
    return contains(text, path_of("", end));
}

static void library(void)
{
    uint32_t abi = 0;
    char *version = NULL, *why = (char *)"";
    EXPECT(S_OK, slimdisk_AbiVersion(&abi));
    CHECK(abi == SLIMDISK_ABI_VERSION);
    EXPECT(S_OK, slimdisk_Version(&version));
    CHECK(version[0] >= '0' && version[0] <= '9' && contains(version, "."));
    EXPECT(S_OK, slimdisk_FreeString(version));
    /* Nothing has failed yet. */
    EXPECT(S_FALSE, slimdisk_LastErrorDescription(&why));
    CHECK(why == NULL);
}

static void server_members(IVMVirtualServer *server)
{
    SlimdiskServerOptions options;
    IVMVirtualServer *other = NULL;
    SlimdiskStringList *list = NULL;
    const char *paths[2], *relative = "not/full", *missing, *nowhere;
    char *text = NULL;
    int32_t count = -1;

    EXPECT(S_OK, slimdisk_IVMVirtualServer_get_Version(server, &text));
    CHECK(strlen(text) >= 12 && strcmp(text + strlen(text) - 5, ".0 SE") == 0);
    EXPECT(S_OK, slimdisk_FreeString(text));

    EXPECT(S_OK, slimdisk_IVMVirtualServer_get_SearchPaths(server, &list));
    EXPECT(S_OK, slimdisk_StringList_get_Count(list, &count));
    CHECK(count == 0);
    EXPECT(DISP_E_BADINDEX, slimdisk_StringList_get_Item(list, 0, &text));
    EXPECT(S_OK, slimdisk_Release(list));

    paths[0] = folder;
    EXPECT(S_OK, slimdisk_IVMVirtualServer_put_SearchPaths(server, paths, 1));
    missing = in("missing");
    EXPECT(E_FILE_NOT_FOUND, slimdisk_IVMVirtualServer_put_SearchPaths(server, &missing, 1));
    nowhere = in("missing/deeper");
    EXPECT(E_PATH_NOT_FOUND, slimdisk_IVMVirtualServer_put_SearchPaths(server, &nowhere, 1));
    EXPECT(E_BAD_PATHNAME, slimdisk_IVMVirtualServer_put_SearchPaths(server, &relative, 1));
    relative = "";
    EXPECT(E_BAD_PATHNAME, slimdisk_IVMVirtualServer_put_SearchPaths(server, &relative, 1));
    relative = in("a*b");
    EXPECT(E_INVALID_NAME, slimdisk_IVMVirtualServer_put_SearchPaths(server, &relative, 1));
    /* None of these has changed them. */
    EXPECT(S_OK, slimdisk_IVMVirtualServer_get_SearchPaths(server, &list));
    EXPECT(S_OK, slimdisk_StringList_get_Count(list, &count));
    CHECK(count == 1);
    EXPECT(S_OK, slimdisk_StringList_get_Item(list, 0, &text));
    CHECK(strcmp(text, folder) == 0);
    EXPECT(S_OK, slimdisk_FreeString(text));
    EXPECT(DISP_E_BADINDEX, slimdisk_StringList_get_Item(list, 1, &text));
    EXPECT(DISP_E_BADINDEX, slimdisk_StringList_get_Item(list, -1, &text));
    EXPECT(S_OK, slimdisk_Release(list));

    memset(&options, 0, sizeof options);
    EXPECT(E_INVALIDARG, slimdisk_CreateVirtualServer(&options, &other));
    CHECK(other == NULL);
    options.size = sizeof options;
    options.reserved = 1;
    EXPECT(E_INVALIDARG, slimdisk_CreateVirtualServer(&options, &other));
    options.reserved = 0;
    options.keepFinishedMilliseconds = -1;
    EXPECT(E_INVALIDARG, slimdisk_CreateVirtualServer(&options, &other));
    options.keepFinishedMilliseconds = 0;
    options.parentFolders = &relative;
    options.parentFolderCount = 1;
    relative = "not/full";
    EXPECT(E_BAD_PATHNAME, slimdisk_CreateVirtualServer(&options, &other));
    options.parentFolders = NULL;
    EXPECT(E_POINTER, slimdisk_CreateVirtualServer(&options, &other));
    options.parentFolderCount = 0;
    options.searchPaths = paths;
    options.searchPathCount = 1;
    EXPECT(S_OK, slimdisk_CreateVirtualServer(&options, &other));
    EXPECT(S_OK, slimdisk_IVMVirtualServer_get_SearchPaths(other, &list));
    EXPECT(S_OK, slimdisk_StringList_get_Count(list, &count));
    CHECK(count == 1);
    EXPECT(S_OK, slimdisk_Release(list));
    EXPECT(S_OK, slimdisk_Release(other));
}

static void make_disks(IVMVirtualServer *server)
{
    IVMTask *task = NULL;
    SlimdiskStringList *list = NULL;
    const char *additional;
    char *text = NULL;
    int32_t count = -1, index, found = 0;

    EXPECT(S_OK, slimdisk_IVMVirtualServer_CreateDynamicVirtualHardDisk(
                     server, in("new folder/dynamic.vhd"), 16, &task));
    check_done(task);
    EXPECT(S_OK, slimdisk_IVMVirtualServer_CreateFixedVirtualHardDisk(
                     server, in("fixed.vhd"), 3, &task));
    check_done(task);
    /* The child's path is relative to the parent's folder. */
    EXPECT(S_OK, slimdisk_IVMVirtualServer_CreateDifferencingVirtualHardDisk(
                     server, "child.vhd", in("new folder/dynamic.vhd"), &task));
    check_done(task);
    EXPECT(S_OK, slimdisk_IVMVirtualServer_CreateFloppyDiskImage(
                     server, in("floppies/low.vfd"), vmFloppyDiskImage_LowDensity));
    EXPECT(S_OK, slimdisk_IVMVirtualServer_CreateFloppyDiskImage(
                     server, in("floppies/high.vfd"), vmFloppyDiskImage_HighDensity));

    additional = in("floppies");
    EXPECT(S_OK, slimdisk_IVMVirtualServer_GetHardDiskFiles(server, &additional, 1, &list));
    EXPECT(S_OK, slimdisk_StringList_get_Count(list, &count));
    for (index = 0; index < count; index++) {
        EXPECT(S_OK, slimdisk_StringList_get_Item(list, index, &text));
        found += leads_to(text, "fixed.vhd") + leads_to(text, "new folder/child.vhd") +
                 leads_to(text, "new folder/dynamic.vhd");
        CHECK(!contains(text, ".vfd"));
        EXPECT(S_OK, slimdisk_FreeString(text));
    }
    CHECK(count == 3 && found == 3);
    EXPECT(S_OK, slimdisk_Release(list));
}

static void ask(IVMVirtualServer *server, const char *name, VMHardDiskType type,
                uint64_t size)
{
    IVMHardDisk *disk = check_open(server, in(name)), *parent = (IVMHardDisk *)1;
    IVMSecurity *security = (IVMSecurity *)1;
    VMHardDiskType found = -1;
    uint64_t guest = 0, host = 0, space = 0;
    char *text = NULL, *drive = (char *)1;

    EXPECT(S_OK, slimdisk_IVMHardDisk_get_File(disk, &text));
    CHECK(strcmp(text, in(name)) == 0);
    EXPECT(S_OK, slimdisk_FreeString(text));
    EXPECT(S_OK, slimdisk_IVMHardDisk_get_Type(disk, &found));
    EXPECT(S_OK, slimdisk_IVMHardDisk_get_SizeInGuest(disk, &guest));
    EXPECT(S_OK, slimdisk_IVMHardDisk_get_SizeOnHost(disk, &host));
    EXPECT(S_OK, slimdisk_IVMHardDisk_get_HostFreeDiskSpace(disk, &space));
    CHECK(found == type && guest == size && host > 0 && space > 0);
    CHECK(type != vmDiskType_FixedSize || host == size + 512);
    EXPECT(S_FALSE, slimdisk_IVMHardDisk_get_HostDriveIdentifier(disk, &drive));
    CHECK(drive == NULL);
    EXPECT(E_NOTIMPL, slimdisk_IVMHardDisk_get_Security(disk, &security));
    CHECK(security == NULL);
    EXPECT(S_OK, slimdisk_HardDisk_get_Chain(disk, &text));
    if (type == vmDiskType_Differencing) {
        EXPECT(S_OK, slimdisk_IVMHardDisk_get_Parent(disk, &parent));
        CHECK(contains(text, "dynamic.vhd\""));
        EXPECT(S_OK, slimdisk_FreeString(text));
        EXPECT(S_OK, slimdisk_IVMHardDisk_get_File(parent, &text));
        CHECK(leads_to(text, "new folder/dynamic.vhd"));
        EXPECT(S_OK, slimdisk_Release(parent));
    } else {
        EXPECT(S_FALSE, slimdisk_IVMHardDisk_get_Parent(disk, &parent));
        CHECK(parent == NULL && strcmp(text, "[]") == 0);
    }
    EXPECT(S_OK, slimdisk_FreeString(text));
    EXPECT(S_OK, slimdisk_Release(disk));
}

static void work(IVMVirtualServer *server)
{
    IVMHardDisk *fixed = check_open(server, in("fixed.vhd"));
    IVMHardDisk *dynamic = check_open(server, in("new folder/dynamic.vhd"));
    IVMHardDisk *child = check_open(server, in("new folder/child.vhd"));
    IVMHardDisk *moved;
    IVMTask *task = NULL;
    char *text = NULL;

    EXPECT(S_OK, slimdisk_IVMHardDisk_Convert(fixed, in("converted.vhd"),
                                              vmDiskType_Dynamic, &task));
    check_done(task);
    EXPECT(S_OK, slimdisk_IVMHardDisk_Convert(dynamic, in("converted fixed.vhd"),
                                              vmDiskType_FixedSize, &task));
    check_done(task);
    EXPECT(S_OK, slimdisk_HardDisk_Convert(fixed, in("converted small.vhd"),
                                           vmDiskType_Dynamic, 512 << 10,
                                           SLIMDISK_FLAG_VERIFY, &task));
    check_done(task);
    EXPECT(E_INVALIDARG, slimdisk_HardDisk_Convert(fixed, in("no.vhd"), vmDiskType_Dynamic,
                                                   0, SLIMDISK_FLAG_TOUCH, &task));
    EXPECT(S_OK, slimdisk_IVMHardDisk_MergeTo(child, in("merged.vhd"), vmDiskType_Dynamic,
                                              &task));
    check_done(task);
    EXPECT(S_OK, slimdisk_HardDisk_MergeTo(child, in("merged fixed.vhd"),
                                           vmDiskType_FixedSize, 0, SLIMDISK_FLAG_VERIFY,
                                           &task));
    check_done(task);
    EXPECT(S_OK, slimdisk_IVMHardDisk_Compact(dynamic, &task));
    check_done(task);
    EXPECT(VM_E_WRONG_HD_IMAGE_TYPE, slimdisk_IVMHardDisk_Compact(child, &task));
    CHECK(task == NULL);
    EXPECT(S_OK, slimdisk_LastErrorDescription(&text));
    CHECK(contains(text, "child.vhd"));
    EXPECT(S_OK, slimdisk_FreeString(text));
    EXPECT(S_OK, slimdisk_HardDisk_Compact(child, SLIMDISK_MODE_FULL,
                                           SLIMDISK_FLAG_VERIFY, &task));
    check_done(task);
    EXPECT(S_OK, slimdisk_HardDisk_Plan(child, SLIMDISK_MODE_QUICK, 0, &text));
    CHECK(text[0] == '{' && contains(text, "\"planned\"") &&
          contains(text, "\"type\":\"differencing\""));
    EXPECT(S_OK, slimdisk_FreeString(text));
    EXPECT(E_INVALIDARG, slimdisk_HardDisk_Plan(child, 3, 0, &text));
    EXPECT(E_INVALIDARG, slimdisk_HardDisk_Plan(child, 0, 1u << 20, &text));
    CHECK(text == NULL);

    /* The parent moves; the child is told where it is. */
    EXPECT(S_OK, slimdisk_Release(dynamic));
    CHECK(rename(in("new folder/dynamic.vhd"), in("moved.vhd")) == 0);
    EXPECT(E_FILE_NOT_FOUND, slimdisk_IVMHardDisk_get_Parent(child, &moved));
    EXPECT(VM_E_PARENT_PATH_NOT_FOUND, slimdisk_IVMHardDisk_Merge(child, &task));
    moved = check_open(server, in("fixed.vhd"));
    EXPECT(VM_E_PARENT_CHILD_ID_MISMATCH, slimdisk_IVMHardDisk_put_Parent(child, moved));
    EXPECT(VM_E_WRONG_HD_IMAGE_TYPE, slimdisk_IVMHardDisk_put_Parent(fixed, moved));
    EXPECT(S_OK, slimdisk_Release(moved));
    moved = check_open(server, in("moved.vhd"));
    EXPECT(S_OK, slimdisk_IVMHardDisk_put_Parent(child, moved));
    EXPECT(S_OK, slimdisk_Release(moved));
    EXPECT(S_OK, slimdisk_Release(child));
    EXPECT(S_OK, slimdisk_Release(fixed));
}

/* A server that follows the child's path out of its folder. */
static void merge(void)
{
    SlimdiskServerOptions options;
    IVMVirtualServer *server = NULL;
    IVMHardDisk *child, *parent = NULL;
    IVMTask *task = NULL;
    const char *place = folder;
    char *text = NULL;

    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.parentFolders = &place;
    options.parentFolderCount = 1;
    options.followParents = VARIANT_TRUE;
    EXPECT(S_OK, slimdisk_CreateVirtualServer(&options, &server));
    child = check_open(server, in("new folder/child.vhd"));
    EXPECT(S_OK, slimdisk_IVMHardDisk_get_Parent(child, &parent));
    EXPECT(S_OK, slimdisk_IVMHardDisk_get_File(parent, &text));
    CHECK(leads_to(text, "moved.vhd"));
    EXPECT(S_OK, slimdisk_FreeString(text));
    EXPECT(S_OK, slimdisk_Release(parent));
    EXPECT(S_OK, slimdisk_IVMHardDisk_Merge(child, &task));
    check_done(task);
    EXPECT(S_OK, slimdisk_HardDisk_Merge(child, SLIMDISK_FLAG_VERIFY, &task));
    check_done(task);
    EXPECT(S_OK, slimdisk_Release(child));
    EXPECT(S_OK, slimdisk_VirtualServer_ShutDown(server));
    EXPECT(S_OK, slimdisk_Release(server));
}

/* All members of tasks, and their collection. */
static void tasks(IVMVirtualServer *server)
{
    IVMHardDisk *disk = check_open(server, in("converted.vhd"));
    IVMTaskCollection *all = NULL;
    IEnumVMTask *each = NULL, *copy = NULL;
    IVMTask *task = NULL, *first = NULL, *item = NULL, *several[4];
    VARIANT_BOOL truth = 7;
    VMTaskResult result = -1;
    SlimdiskPhase phase = -2;
    uint64_t done = 1, total = 2;
    uint32_t fetched = 99;
    int32_t count = -1, id = -1, other = -1, percent = -1;
    char *text = NULL;

    EXPECT(S_OK, slimdisk_IVMHardDisk_Compact(disk, &task));
    EXPECT(S_OK, slimdisk_AddRef(task));
    EXPECT(S_OK, slimdisk_Release(task));
    EXPECT(E_POINTER, slimdisk_IVMTask_WaitForCompletion(task, -2));
    EXPECT(E_POINTER, slimdisk_IVMTask_WaitForCompletion(task, 4000001));
    EXPECT(S_OK, slimdisk_IVMTask_WaitForCompletion(task, 0));
    EXPECT(S_OK, slimdisk_IVMTask_WaitForCompletion(task, 4000000));
    EXPECT(S_OK, slimdisk_IVMTask_get_IsComplete(task, &truth));
    CHECK(truth == VARIANT_TRUE);
    EXPECT(S_OK, slimdisk_IVMTask_get_IsCancelable(task, &truth));
    CHECK(truth == VARIANT_FALSE);
    EXPECT(E_FAIL, slimdisk_IVMTask_Cancel(task));
    EXPECT(S_OK, slimdisk_IVMTask_get_Result(task, &result));
    EXPECT(S_OK, slimdisk_IVMTask_get_PercentCompleted(task, &percent));
    CHECK(result == vmTaskResult_Success && percent == 100);
    EXPECT(S_OK, slimdisk_IVMTask_get_Description(task, &text));
    CHECK(contains(text, "converted.vhd"));
    EXPECT(S_OK, slimdisk_FreeString(text));
    EXPECT(S_OK, slimdisk_IVMTask_get_ID(task, &id));
    CHECK(id > 0);
    EXPECT(S_OK, slimdisk_Task_get_Phase(task, &phase));
    CHECK(phase >= SLIMDISK_PHASE_NONE && phase <= SLIMDISK_PHASE_MERGE);
    EXPECT(S_OK, slimdisk_Task_get_BytesDone(task, &done));
    EXPECT(S_OK, slimdisk_Task_get_BytesTotal(task, &total));
    CHECK(done <= total);
    EXPECT(S_FALSE, slimdisk_Task_get_BytesPerSecond(task, &done));
    EXPECT(S_FALSE, slimdisk_Task_get_TimeLeft(task, &done));
    EXPECT(S_OK, slimdisk_Task_get_Report(task, &text));
    CHECK(text[0] == '{' && contains(text, "\"outcome\""));
    EXPECT(S_OK, slimdisk_FreeString(text));

    EXPECT(S_OK, slimdisk_IVMVirtualServer_get_Tasks(server, &all));
    EXPECT(S_OK, slimdisk_IVMTaskCollection_get_Count(all, &count));
    CHECK(count >= 8);
    EXPECT(DISP_E_BADINDEX, slimdisk_IVMTaskCollection_get_Item(all, 0, &item));
    EXPECT(DISP_E_BADINDEX, slimdisk_IVMTaskCollection_get_Item(all, -1, &item));
    EXPECT(DISP_E_BADINDEX, slimdisk_IVMTaskCollection_get_Item(all, count + 1, &item));
    CHECK(item == NULL);
    EXPECT(S_OK, slimdisk_IVMTaskCollection_get_Item(all, 1, &first));
    EXPECT(S_OK, slimdisk_IVMTaskCollection_get_Item(all, count, &item));
    EXPECT(S_OK, slimdisk_IVMTask_get_ID(item, &other));
    CHECK(other == id);
    EXPECT(S_OK, slimdisk_Release(item));

    EXPECT(S_OK, slimdisk_IVMTaskCollection_get__NewEnum(all, &each));
    EXPECT(S_OK, slimdisk_IEnumVMTask_Next(each, 1, &item, NULL));
    EXPECT(S_OK, slimdisk_IVMTask_get_ID(item, &other));
    EXPECT(S_OK, slimdisk_IVMTask_get_ID(first, &id));
    CHECK(other == id);
    EXPECT(S_OK, slimdisk_Release(item));
    EXPECT(S_OK, slimdisk_Release(first));
    EXPECT(S_OK, slimdisk_IEnumVMTask_Skip(each, (uint32_t)count - 3));
    EXPECT(S_OK, slimdisk_IEnumVMTask_Clone(each, &copy));
    EXPECT(S_FALSE, slimdisk_IEnumVMTask_Next(each, 4, several, &fetched));
    CHECK(fetched == 2 && several[2] == NULL && several[3] == NULL);
    EXPECT(S_OK, slimdisk_Release(several[0]));
    EXPECT(S_OK, slimdisk_Release(several[1]));
    EXPECT(S_FALSE, slimdisk_IEnumVMTask_Next(each, 1, &item, NULL));
    CHECK(item == NULL);
    EXPECT(S_FALSE, slimdisk_IEnumVMTask_Skip(each, 1));
    EXPECT(S_OK, slimdisk_IEnumVMTask_Next(copy, 2, several, &fetched));
    CHECK(fetched == 2);
    EXPECT(S_OK, slimdisk_Release(several[0]));
    EXPECT(S_OK, slimdisk_Release(several[1]));
    EXPECT(S_OK, slimdisk_IEnumVMTask_Reset(each));
    EXPECT(S_OK, slimdisk_IEnumVMTask_Skip(each, (uint32_t)count));
    EXPECT(S_OK, slimdisk_IEnumVMTask_Next(each, 0, NULL, &fetched));
    CHECK(fetched == 0);
    EXPECT(S_OK, slimdisk_Release(copy));
    EXPECT(S_OK, slimdisk_Release(each));
    EXPECT(S_OK, slimdisk_Release(all));
    EXPECT(S_OK, slimdisk_Release(task));
    EXPECT(S_OK, slimdisk_Release(disk));
}

/* A server that forgets its tasks at once has nothing behind an old index. */
static void forgotten(void)
{
    SlimdiskServerOptions options;
    IVMVirtualServer *server = NULL;
    IVMHardDisk *disk;
    IVMTaskCollection *all = NULL;
    IEnumVMTask *each = NULL;
    IVMTask *task = NULL, *item = NULL, *running[2];
    int32_t count = -1;
    uint32_t fetched = 99;
    size_t tries;

    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.keepFinishedMilliseconds = 1;
    EXPECT(S_OK, slimdisk_CreateVirtualServer(&options, &server));
    disk = check_open(server, in("converted fixed.vhd"));
    EXPECT(S_OK, slimdisk_IVMHardDisk_Convert(disk, in("again.vhd"), vmDiskType_FixedSize,
                                              &task));
    EXPECT(S_OK, slimdisk_IVMVirtualServer_get_Tasks(server, &all));
    EXPECT(S_OK, slimdisk_IVMTaskCollection_get_Count(all, &count));
    CHECK(count <= 1);
    EXPECT(S_OK, slimdisk_IVMTask_WaitForCompletion(task, -1));
    EXPECT(S_OK, slimdisk_Release(task));
    for (tries = 0; tries < 100000000; tries++) {
        HRESULT result = slimdisk_IVMTaskCollection_get_Item(all, 1, &item);
        if (result == DISP_E_BADINDEX)
            break;
        EXPECT(S_OK, result);
        EXPECT(S_OK, slimdisk_Release(item));
    }
    CHECK(item == NULL);
    EXPECT(S_OK, slimdisk_IVMTaskCollection_get__NewEnum(all, &each));
    EXPECT(S_FALSE, slimdisk_IEnumVMTask_Next(each, 2, running, &fetched));
    CHECK(fetched == 0 && running[0] == NULL);
    EXPECT(S_OK, slimdisk_Release(each));
    EXPECT(S_OK, slimdisk_Release(all));
    EXPECT(S_OK, slimdisk_Release(disk));
    EXPECT(S_OK, slimdisk_VirtualServer_ShutDown(server));
    EXPECT(S_OK, slimdisk_Release(server));
}

int main(int argc, char **argv)
{
    IVMVirtualServer *server;

    if (argc != 2)
        return 2;
    CHECK(snprintf(folder, sizeof folder, "%s", argv[1]) < (int)sizeof folder);
    library();
    server = check_server();
    server_members(server);
    make_disks(server);
    ask(server, "new folder/dynamic.vhd", vmDiskType_Dynamic, 16 << 20);
    ask(server, "fixed.vhd", vmDiskType_FixedSize, 3 << 20);
    ask(server, "new folder/child.vhd", vmDiskType_Differencing, 16 << 20);
    work(server);
    merge();
    tasks(server);
    forgotten();
    EXPECT(S_OK, slimdisk_VirtualServer_ShutDown(server));
    EXPECT(S_OK, slimdisk_Release(server));
    check_nothing_is_left();
    return 0;
}
