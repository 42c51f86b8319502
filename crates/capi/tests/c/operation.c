/* Does one operation in the situation that it finds, and wants exactly one code.
 *
 *   operation CODE OPERATION ARGUMENT...         the call answers CODE
 *   operation task:CODE OPERATION ARGUMENT...    the call answers S_OK, and its task fails
 *                                                with CODE and vmTaskResult_DiskRelatedError
 *
 * An operation on a disk has its image as the first argument. OPERATION may begin with
 * gone: (the image is removed when it has been opened). An argument NULL is none. */
#include "check.h"

static const struct {
    const char *name;
    HRESULT code;
} codes[] = {
#define CODE(name) {#name, name}
    CODE(S_OK),
    CODE(S_FALSE),
    CODE(E_NOTIMPL),
    CODE(E_POINTER),
    CODE(E_INVALIDARG),
    CODE(E_ACCESSDENIED),
    CODE(E_FILE_NOT_FOUND),
    CODE(E_PATH_NOT_FOUND),
    CODE(E_INVALID_NAME),
    CODE(E_BAD_PATHNAME),
    CODE(E_BUFFER_OVERFLOW),
    CODE(E_ALREADY_EXISTS),
    CODE(E_SHARING_VIOLATION),
    CODE(E_DISK_FULL),
    CODE(DISP_E_EXCEPTION),
    CODE(VM_E_INVALID_HD_FILE),
    CODE(VM_E_WRONG_HD_IMAGE_TYPE),
    CODE(VM_E_FILE_READ_ONLY),
    CODE(VM_E_PARENT_PATH_NOT_FOUND),
    CODE(VM_E_PARENT_CHILD_ID_MISMATCH),
    CODE(VM_E_IMAGE_SIZE_TOO_SMALL),
    CODE(VM_E_IMAGE_SIZE_TOO_LARGE),
    CODE(VM_E_FILE_TOO_LARGE_FOR_VOLUME),
    CODE(VM_E_HD_IMAGE_OPEN_FAIL),
    CODE(VM_E_HD_IMAGE_ACCESS),
};

static const char *name_of(HRESULT code)
{
    size_t index;
    for (index = 0; index < sizeof codes / sizeof *codes; index++)
        if (codes[index].code == code)
            return codes[index].name;
    return "another code";
}

static char **arguments;
static int count;

static const char *text(int index)
{
    if (index >= count) {
        fprintf(stderr, "an argument is missing\n");
        exit(2);
    }
    return strcmp(arguments[index], "NULL") == 0 ? NULL : arguments[index];
}

static int32_t number(int index)
{
    return (int32_t)atol(text(index));
}

static HRESULT do_it(IVMVirtualServer *server, const char *what, IVMTask **task)
{
    IVMHardDisk *disk = NULL, *other = NULL;
    HRESULT result;
    int gone = strncmp(what, "gone:", 5) == 0;
    uint64_t size = 1;
    VMHardDiskType type = 77;
    char *string = NULL;

    what += gone ? 5 : 0;
    if (strcmp(what, "open") == 0) {
        result = slimdisk_IVMVirtualServer_GetHardDisk(server, text(0), &disk);
        CHECK(SUCCEEDED(result) == (disk != NULL));
        if (disk != NULL)
            slimdisk_Release(disk);
        return result;
    }
    if (strcmp(what, "dynamic") == 0)
        return slimdisk_IVMVirtualServer_CreateDynamicVirtualHardDisk(server, text(0),
                                                                      number(1), task);
    if (strcmp(what, "fixed") == 0)
        return slimdisk_IVMVirtualServer_CreateFixedVirtualHardDisk(server, text(0),
                                                                    number(1), task);
    if (strcmp(what, "differencing") == 0)
        return slimdisk_IVMVirtualServer_CreateDifferencingVirtualHardDisk(
            server, text(0), text(1), task);
    if (strcmp(what, "hostdrive") == 0)
        return slimdisk_IVMVirtualServer_CreateHostDriveVirtualHardDisk(
            server, text(0), text(1), VARIANT_TRUE, task);
    if (strcmp(what, "floppy") == 0)
        return slimdisk_IVMVirtualServer_CreateFloppyDiskImage(server, text(0), number(1));

    disk = check_open(server, text(0));
    if (gone)
        CHECK(remove(text(0)) == 0);
    if (strcmp(what, "compact") == 0)
        result = slimdisk_IVMHardDisk_Compact(disk, task);
    else if (strcmp(what, "compact-any") == 0)
        result = slimdisk_HardDisk_Compact(disk, SLIMDISK_MODE_QUICK,
                                           SLIMDISK_FLAG_VERIFY, task);
    else if (strcmp(what, "compact-orphan") == 0)
        result = slimdisk_HardDisk_Compact(disk, SLIMDISK_MODE_QUICK,
                                           SLIMDISK_FLAG_ORPHAN_CHILDREN, task);
    else if (strcmp(what, "plan-orphan") == 0) {
        result = slimdisk_HardDisk_Plan(disk, SLIMDISK_MODE_QUICK,
                                        SLIMDISK_FLAG_ORPHAN_CHILDREN, &string);
        CHECK(SUCCEEDED(result) == (string != NULL));
        if (string != NULL)
            puts(string);
        slimdisk_FreeString(string);
    } else if (strcmp(what, "convert") == 0)
        result = slimdisk_IVMHardDisk_Convert(disk, text(1), number(2), task);
    else if (strcmp(what, "merge") == 0)
        result = slimdisk_IVMHardDisk_Merge(disk, task);
    else if (strcmp(what, "mergeto") == 0)
        result = slimdisk_IVMHardDisk_MergeTo(disk, text(1), number(2), task);
    else if (strcmp(what, "type") == 0) {
        result = slimdisk_IVMHardDisk_get_Type(disk, &type);
        /* A failure leaves nothing. */
        CHECK(SUCCEEDED(result) || type == 0);
    } else if (strcmp(what, "guest") == 0) {
        result = slimdisk_IVMHardDisk_get_SizeInGuest(disk, &size);
        CHECK(SUCCEEDED(result) == (size != 0));
    } else if (strcmp(what, "size") == 0) {
        result = slimdisk_IVMHardDisk_get_SizeOnHost(disk, &size);
        CHECK(SUCCEEDED(result) == (size != 0));
    } else if (strcmp(what, "free") == 0) {
        result = slimdisk_IVMHardDisk_get_HostFreeDiskSpace(disk, &size);
        CHECK(SUCCEEDED(result) == (size != 0));
    } else if (strcmp(what, "drive") == 0) {
        result = slimdisk_IVMHardDisk_get_HostDriveIdentifier(disk, &string);
        CHECK(string == NULL);
    } else if (strcmp(what, "parent") == 0) {
        result = slimdisk_IVMHardDisk_get_Parent(disk, &other);
        CHECK((result == S_OK) == (other != NULL));
        if (other != NULL)
            slimdisk_Release(other);
    } else if (strcmp(what, "setparent") == 0) {
        other = check_open(server, text(1));
        result = slimdisk_IVMHardDisk_put_Parent(disk, other);
        slimdisk_Release(other);
    } else if (strcmp(what, "chain") == 0) {
        result = slimdisk_HardDisk_get_Chain(disk, &string);
        CHECK(SUCCEEDED(result) == (string != NULL));
        slimdisk_FreeString(string);
    } else {
        fprintf(stderr, "there is no operation %s\n", what);
        exit(2);
    }
    slimdisk_Release(disk);
    return result;
}

int main(int argc, char **argv)
{
    IVMVirtualServer *server = check_server();
    IVMTask *task = NULL;
    HRESULT result;
    const char *expected, *said = NULL;
    int by_task;

    if (argc < 4)
        return 2;
    arguments = argv + 3;
    count = argc - 3;
    by_task = strncmp(argv[1], "task:", 5) == 0;
    expected = argv[1] + (by_task ? 5 : 0);

    result = do_it(server, argv[2], &task);
    if (FAILED(result)) {
        CHECK(task == NULL);
        said = "the call";
    } else if (task != NULL) {
        int32_t error = 1;
        VMTaskResult end = -1;
        char *description = NULL;
        EXPECT(S_OK, slimdisk_IVMTask_WaitForCompletion(task, -1));
        EXPECT(S_OK, slimdisk_IVMTask2_get_Error(task, &error));
        EXPECT(S_OK, slimdisk_IVMTask_get_Result(task, &end));
        EXPECT(S_OK, slimdisk_IVMTask2_get_ErrorDescription(task, &description));
        if (error != S_OK) {
            CHECK(result == S_OK && description[0] != 0);
            printf("the task: %s\n", description);
            CHECK(end == vmTaskResult_DiskRelatedError);
            result = error;
            said = "the task";
        } else {
            CHECK(end == vmTaskResult_Success && description[0] == 0);
        }
        slimdisk_FreeString(description);
        EXPECT(S_OK, slimdisk_Release(task));
    }
    EXPECT(S_OK, slimdisk_VirtualServer_ShutDown(server));
    EXPECT(S_OK, slimdisk_Release(server));
    check_nothing_is_left();

    if (strcmp(name_of(result), expected) != 0 ||
        by_task != (said != NULL && strcmp(said, "the task") == 0)) {
        fprintf(stderr, "%s answered %s (0x%08lX), not %s\n",
                said == NULL ? "the call" : said, name_of(result),
                (unsigned long)(uint32_t)result, argv[1]);
        check_say_last_error();
        return 1;
    }
    if (FAILED(result) && !by_task) {
        char *why = NULL;
        EXPECT(S_OK, slimdisk_LastErrorDescription(&why));
        CHECK(strlen(why) > 10);
        printf("%s\n", why);
        slimdisk_FreeString(why);
    }
    return 0;
}
