/* Windows: paths in UTF-16 and in UTF-8, and a file that somebody has.
 *
 *   wide FOLDER */
#include "check.h"

#include <wchar.h>

int wmain(int argc, wchar_t **argv)
{
    IVMVirtualServer *server = check_server();
    IVMHardDisk *disk = NULL, *other = NULL;
    IVMTask *task = NULL;
    wchar_t path[1000], *wide = NULL;
    char narrow[3000], *text = NULL;
    HANDLE held;

    CHECK(argc == 2);
    CHECK(swprintf(path, 1000,
                   L"%ls\\Gr\u00f6\u00dfe \u0395\u03bb\u03bb\u03ac\u03b4\u03b1 "
                   L"\u65e5\u672c \U0001F4BE.vhd",
                   argv[1]) > 0);
    CHECK(WideCharToMultiByte(CP_UTF8, 0, path, -1, narrow, sizeof narrow, NULL, NULL));

    EXPECT(S_OK, slimdisk_IVMVirtualServer_CreateDynamicVirtualHardDiskW(server, path, 8,
                                                                         &task));
    check_done(task);
    EXPECT(S_OK, slimdisk_IVMVirtualServer_GetHardDiskW(server, path, &disk));
    EXPECT(S_OK, slimdisk_IVMHardDisk_get_FileW(disk, &wide));
    CHECK(wcscmp(wide, path) == 0);
    EXPECT(S_OK, slimdisk_FreeStringW(wide));
    EXPECT(S_OK, slimdisk_IVMHardDisk_get_File(disk, &text));
    CHECK(strcmp(text, narrow) == 0);
    EXPECT(S_OK, slimdisk_FreeString(text));
    other = check_open(server, narrow);
    EXPECT(S_OK, slimdisk_Release(other));

    /* Bytes that are no UTF-8 are no path. */
    other = NULL;
    EXPECT(E_INVALIDARG,
           slimdisk_IVMVirtualServer_GetHardDisk(server, "Z:\\Gr\xF6\xDF" "e.vhd", &other));
    CHECK(other == NULL);

    held = CreateFileW(path, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ, NULL,
                       OPEN_EXISTING, 0, NULL);
    CHECK(held != INVALID_HANDLE_VALUE);
    EXPECT(E_SHARING_VIOLATION, slimdisk_IVMHardDisk_Compact(disk, &task));
    EXPECT(S_OK, slimdisk_LastErrorDescriptionW(&wide));
    CHECK(wcsstr(wide, L"\u03ac\u03b4\u03b1 \u65e5\u672c \U0001F4BE.vhd") != NULL);
    EXPECT(S_OK, slimdisk_FreeStringW(wide));
    CHECK(CloseHandle(held));
    EXPECT(S_OK, slimdisk_IVMHardDisk_Compact(disk, &task));
    check_done(task);

    EXPECT(S_OK, slimdisk_Release(disk));
    EXPECT(S_OK, slimdisk_VirtualServer_ShutDown(server));
    EXPECT(S_OK, slimdisk_Release(server));
    check_nothing_is_left();
    return 0;
}
