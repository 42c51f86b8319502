/* What the tests in C share: checks that say where they fail, and codes by name. */
#ifndef CHECK_H
#define CHECK_H

#include <slimdisk.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition))                                                             \
            check_failed(__FILE__, __LINE__, #condition);                             \
    } while (0)

#define EXPECT(expected, call)                                                        \
    check_code(__FILE__, __LINE__, #call, (HRESULT)(expected), (call))

static void check_say_last_error(void)
{
    char *text = NULL;
    if (slimdisk_LastErrorDescription(&text) == S_OK) {
        fprintf(stderr, "  the last error of this thread: %s\n", text);
        slimdisk_FreeString(text);
    }
}

static void check_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    check_say_last_error();
    exit(1);
}

static void check_code(const char *file, int line, const char *call, HRESULT expected,
                       HRESULT got)
{
    if (expected == got)
        return;
    fprintf(stderr, "%s:%d: %s: 0x%08lX expected, 0x%08lX answered\n", file, line, call,
            (unsigned long)(uint32_t)expected, (unsigned long)(uint32_t)got);
    check_say_last_error();
    exit(1);
}

/* All that was given has been given back. */
static inline void check_nothing_is_left(void)
{
    size_t count = 99;
    EXPECT(S_OK, slimdisk_OpenHandles(&count));
    CHECK(count == 0);
}

static inline IVMVirtualServer *check_server(void)
{
    IVMVirtualServer *server = NULL;
    EXPECT(S_OK, slimdisk_CreateVirtualServer(NULL, &server));
    CHECK(server != NULL);
    return server;
}

static inline IVMHardDisk *check_open(IVMVirtualServer *server, const char *path)
{
    IVMHardDisk *disk = NULL;
    EXPECT(S_OK, slimdisk_IVMVirtualServer_GetHardDisk(server, path, &disk));
    CHECK(disk != NULL);
    return disk;
}

/* Waits for a task that must succeed, and gives it back. */
static inline void check_done(IVMTask *task)
{
    VMTaskResult result = -1;
    VARIANT_BOOL complete = 7;
    int32_t error = -1, percent = -1;
    char *text = NULL;
    CHECK(task != NULL);
    EXPECT(S_OK, slimdisk_IVMTask_WaitForCompletion(task, -1));
    EXPECT(S_OK, slimdisk_IVMTask_get_IsComplete(task, &complete));
    EXPECT(S_OK, slimdisk_IVMTask_get_Result(task, &result));
    EXPECT(S_OK, slimdisk_IVMTask2_get_ErrorDescription(task, &text));
    if (result != vmTaskResult_Success)
        fprintf(stderr, "the task failed: %s\n", text);
    CHECK(complete == VARIANT_TRUE && result == vmTaskResult_Success);
    CHECK(text[0] == 0);
    slimdisk_FreeString(text);
    EXPECT(S_OK, slimdisk_IVMTask2_get_Error(task, &error));
    EXPECT(S_OK, slimdisk_IVMTask_get_PercentCompleted(task, &percent));
    CHECK(error == S_OK && percent == 100);
    EXPECT(S_OK, slimdisk_Release(task));
}

#endif
