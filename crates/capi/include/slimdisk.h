/*
 * slimdisk.h - virtual disks and the work on them, for C and C++
 *
 * The objects, members, values and result codes are those of the Virtual Server 2005
 * reference (IVMVirtualServer, IVMHardDisk, IVMTask, IVMTask2, IVMTaskCollection), as far
 * as they concern hard disk images. `object->Member(arguments)` is written
 *
 *     slimdisk_IVMHardDisk_Compact(disk, &task);
 *
 * here: the interface, the member, the object first. Functions beyond that reference are
 * named slimdisk_HardDisk_..., slimdisk_Task_..., slimdisk_VirtualServer_...
 * docs/c-abi.md has the table of what was documented and what is answered here.
 *
 * RESULTS. Every function returns an HRESULT: S_OK or S_FALSE, or a negative code. A
 * place for a result is looked at first (E_POINTER if it is NULL) and then set to NULL
 * or 0, so after a failure nothing old is found there. What went wrong says
 * slimdisk_LastErrorDescription in words. No C++ or Rust exception comes out of any
 * function: what slimdisk did not foresee is DISP_E_EXCEPTION.
 *
 * HANDLES. The objects are handles with a count of their holders. A handle that a
 * function gives has one holder, the caller, who gives it back with slimdisk_Release.
 * A handle is never followed as a pointer: NULL, a handle that was given back already
 * and a handle of another type are E_POINTER. Two handles may stand for one object:
 * compare tasks by their ID and disks by their File, not by the pointers. A task goes on
 * when the last handle of it, or of its server, is given back; it ends with the process,
 * and the image is sound then, too.
 *
 * TEXT. `const char *` in: UTF-8, ended by a NUL, the caller's own and only read during
 * the call (on Unix, paths are the bytes that they are). `char *` out: UTF-8, the
 * caller's from then on, to be left unchanged and given back with slimdisk_FreeString.
 * On Windows each function with text has a twin whose name ends in W, for UTF-16
 * (SlimdiskWChar), whose results go to slimdisk_FreeStringW.
 *
 * THREADS. Every function may be called by any thread at any time, and by several at
 * once on the same object. Only slimdisk_LastErrorDescription depends on the thread: it
 * speaks of the thread's own calls. Functions that wait, or read much, say so below;
 * the others return soon. Each task runs on a thread of its own.
 *
 * VERSIONS. The number in the shared library's name (libslimdisk.so.0) is the ABI's.
 * While it stays, functions and constants are only added, and what is there keeps its
 * meaning: a program built with an older header runs with a newer library. See
 * slimdisk_AbiVersion.
 */
#ifndef SLIMDISK_H
#define SLIMDISK_H

#include <stddef.h>
#include <stdint.h>

#ifdef _WIN32
/* HRESULT, VARIANT_BOOL and the system's own codes are the system's there. */
#include <windows.h>
#include <wtypes.h>
#else
typedef int32_t HRESULT;
/* Visual Basic's truth: 0 is false, -1 is true. */
typedef int16_t VARIANT_BOOL;
#define VARIANT_FALSE ((VARIANT_BOOL)0)
#define VARIANT_TRUE ((VARIANT_BOOL)-1)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Number of the ABI in the upper half, count of additions to it in the lower half. */
#define SLIMDISK_ABI_VERSION 0x00000002u

/* ------------------------------------------------------------------ Result codes */

#define SLIMDISK_HRESULT(code) ((HRESULT)(code))

#ifndef SUCCEEDED
#define SUCCEEDED(result) ((HRESULT)(result) >= 0)
#endif
#ifndef FAILED
#define FAILED(result) ((HRESULT)(result) < 0)
#endif

/* The system's, under the system's names. */

#ifndef S_OK
#define S_OK SLIMDISK_HRESULT(0x00000000)
#endif
#ifndef S_FALSE
#define S_FALSE SLIMDISK_HRESULT(0x00000001)
#endif
#ifndef E_NOTIMPL
#define E_NOTIMPL SLIMDISK_HRESULT(0x80004001)
#endif
#ifndef E_POINTER
#define E_POINTER SLIMDISK_HRESULT(0x80004003)
#endif
#ifndef E_FAIL
#define E_FAIL SLIMDISK_HRESULT(0x80004005)
#endif
#ifndef DISP_E_EXCEPTION
#define DISP_E_EXCEPTION SLIMDISK_HRESULT(0x80020009)
#endif
#ifndef DISP_E_BADINDEX
#define DISP_E_BADINDEX SLIMDISK_HRESULT(0x8002000B)
#endif
#ifndef E_ACCESSDENIED
#define E_ACCESSDENIED SLIMDISK_HRESULT(0x80070005)
#endif
#ifndef E_OUTOFMEMORY
#define E_OUTOFMEMORY SLIMDISK_HRESULT(0x8007000E)
#endif
#ifndef E_INVALIDARG
#define E_INVALIDARG SLIMDISK_HRESULT(0x80070057)
#endif

/* The system's, under the names that the Virtual Server reference gives them. */

#define E_FILE_NOT_FOUND                           SLIMDISK_HRESULT(0x80070002)
#define E_PATH_NOT_FOUND                           SLIMDISK_HRESULT(0x80070003)
#define E_SHARING_VIOLATION                        SLIMDISK_HRESULT(0x80070020)
#define E_BUFFER_OVERFLOW                          SLIMDISK_HRESULT(0x8007006F)
#define E_DISK_FULL                                SLIMDISK_HRESULT(0x80070070)
#define E_INVALID_NAME                             SLIMDISK_HRESULT(0x8007007B)
#define E_BAD_PATHNAME                             SLIMDISK_HRESULT(0x800700A1)
#define E_ALREADY_EXISTS                           SLIMDISK_HRESULT(0x800700B7)

/* Virtual Server's own, all 70. Those of disks, files and the server's end are answered
 * here; the others belong to members that are not here. */

#define VM_E_TIMED_OUT                             SLIMDISK_HRESULT(0xA0040202)
#define VM_E_OUT_OF_RESOURCE                       SLIMDISK_HRESULT(0xA0040203)
#define VM_E_TOO_MANY_VMS                          SLIMDISK_HRESULT(0xA0040204)
#define VM_E_VM_NOT_RUNNING                        SLIMDISK_HRESULT(0xA0040206)
#define VM_E_VM_UNKNOWN                            SLIMDISK_HRESULT(0xA0040207)
#define VM_E_OUT_OF_RESERVE                        SLIMDISK_HRESULT(0xA0040208)
#define VM_E_APP_SHUTTING_DOWN                     SLIMDISK_HRESULT(0xA0040209)
#define VM_E_SCRIPT_ALREADY_EXISTS                 SLIMDISK_HRESULT(0xA004020A)
#define VM_E_PREF_NOT_FOUND                        SLIMDISK_HRESULT(0xA0040300)
#define VM_E_PREF_ILLEGAL_VALUE                    SLIMDISK_HRESULT(0xA0040301)
#define VM_E_PREF_VM_ACTIVE                        SLIMDISK_HRESULT(0xA0040302)
#define VM_E_PREF_CONFIG_UPDATED_VM_ACTIVE         SLIMDISK_HRESULT(0xA0040303)
#define VM_E_PREF_UNLOADABLE_ACTIVATION            SLIMDISK_HRESULT(0xA0040306)
#define VM_E_PREF_SAVED_STATE_BAD_VERSION          SLIMDISK_HRESULT(0xA0040307)
#define VM_E_PREF_SAVED_STATE_ACCESS_DENIED        SLIMDISK_HRESULT(0xA0040308)
#define VM_E_CONFIG_NO_NAME                        SLIMDISK_HRESULT(0xA0040400)
#define VM_E_CONFIG_NAME_TOO_LONG                  SLIMDISK_HRESULT(0xA0040401)
#define VM_E_CONFIG_NAME_INVALID_CHAR              SLIMDISK_HRESULT(0xA0040402)
#define VM_E_CONFIG_DUPLICATE_NAME                 SLIMDISK_HRESULT(0xA0040403)
#define VM_E_VM_RUNNING                            SLIMDISK_HRESULT(0xA0040500)
#define VM_E_VM_NO_SAVED_STATE                     SLIMDISK_HRESULT(0xA0040501)
#define VM_E_DRIVE_INVALID                         SLIMDISK_HRESULT(0xA0040502)
#define VM_E_DRIVE_BUS_LOC_IN_USE                  SLIMDISK_HRESULT(0xA0040503)
#define VM_E_ADDITIONS_NOT_AVAIL                   SLIMDISK_HRESULT(0xA0040504)
#define VM_E_ADDITIONS_FEATURE_NOT_AVAIL           SLIMDISK_HRESULT(0xA0040505)
#define VM_E_FOLDER_NOT_SHARED                     SLIMDISK_HRESULT(0xA0040506)
#define VM_E_VM_PAUSED                             SLIMDISK_HRESULT(0xA0040507)
#define VM_E_MEDIA_UNMOUNT_FAIL                    SLIMDISK_HRESULT(0xA0040508)
#define VM_E_IMAGE_CAPTURE_FAIL                    SLIMDISK_HRESULT(0xA0040650)
#define VM_E_HOST_FLOPPY_CAPTURE_FAIL              SLIMDISK_HRESULT(0xA0040651)
#define VM_E_NO_MEDIA_CAPTURED                     SLIMDISK_HRESULT(0xA0040652)
#define VM_E_PARENT_PATH_NOT_FOUND                 SLIMDISK_HRESULT(0xA0040677)
#define VM_E_FILE_TOO_LARGE_FOR_VOLUME             SLIMDISK_HRESULT(0xA0040679)
#define VM_E_FILE_READ_ONLY                        SLIMDISK_HRESULT(0xA004067A)
#define VM_E_WRONG_HD_IMAGE_TYPE                   SLIMDISK_HRESULT(0xA004067B)
#define VM_E_HD_IMAGE_OPEN_FAIL                    SLIMDISK_HRESULT(0xA004067C)
#define VM_E_HOST_DRIVE_NOT_FOUND                  SLIMDISK_HRESULT(0xA004067E)
#define VM_E_HD_IMAGE_ACCESS                       SLIMDISK_HRESULT(0xA0040681)
#define VM_E_INVALID_HD_FILE                       SLIMDISK_HRESULT(0xA0040682)
#define VM_E_IMAGE_SIZE_TOO_LARGE                  SLIMDISK_HRESULT(0xA0040683)
#define VM_E_IMAGE_SIZE_TOO_SMALL                  SLIMDISK_HRESULT(0xA0040684)
#define VM_E_PARENT_CHILD_ID_MISMATCH              SLIMDISK_HRESULT(0xA0040685)
#define VM_E_ADAPTER_NOT_FOUND                     SLIMDISK_HRESULT(0xA0040700)
#define VM_E_VIRTUAL_NETWORK_NAME_ALREADY_EXISTS   SLIMDISK_HRESULT(0xA0040701)
#define VM_E_INVALID_VIRTUAL_NETWORK_ID            SLIMDISK_HRESULT(0xA0040702)
#define VM_E_CANT_SET_ETHERNET_ADDRESS             SLIMDISK_HRESULT(0xA0040703)
#define VM_E_INVALID_IP_ADDRESS                    SLIMDISK_HRESULT(0xA0040704)
#define VM_E_INVALID_NETWORK_ADDRESS               SLIMDISK_HRESULT(0xA0040705)
#define VM_E_INVALID_NETWORK_MASK                  SLIMDISK_HRESULT(0xA0040706)
#define VM_E_INVALID_STARTING_ADDRESS              SLIMDISK_HRESULT(0xA0040707)
#define VM_E_INVALID_ENDING_ADDRESS                SLIMDISK_HRESULT(0xA0040708)
#define VM_E_INVALID_ADDRESS_RANGE                 SLIMDISK_HRESULT(0xA0040709)
#define VM_E_CANT_SET_DYNAMIC_MAC_ADDRESS          SLIMDISK_HRESULT(0xA004070A)
#define VM_E_DRIVE_IN_USE                          SLIMDISK_HRESULT(0xA0040727)
#define VM_E_MEDIA_WRONG_TYPE                      SLIMDISK_HRESULT(0xA0040728)
#define VM_E_NO_LICENSE                            SLIMDISK_HRESULT(0xA0040750)
#define VM_E_INVALID_LICENSE                       SLIMDISK_HRESULT(0xA0040751)
#define VM_E_INVALID_LICENSE_KEY                   SLIMDISK_HRESULT(0xA0040752)
#define VM_E_INVALID_LICENSE_VALUE                 SLIMDISK_HRESULT(0xA0040753)
#define VM_E_LICENSE_ACTIVE_VM_LIMIT               SLIMDISK_HRESULT(0xA0040754)
#define VM_E_LICENSE_HOST_MEMORY_LIMIT             SLIMDISK_HRESULT(0xA0040755)
#define VM_E_LICENSE_VM_MEMORY_LIMIT               SLIMDISK_HRESULT(0xA0040756)
#define VM_E_NOT_A_TRIAL_VERSION                   SLIMDISK_HRESULT(0xA0040757)
#define VM_E_NON_ACTIVE_TRIAL                      SLIMDISK_HRESULT(0xA0040758)
#define VM_E_MOUSE_NOT_ACTIVE                      SLIMDISK_HRESULT(0xA0040800)
#define VM_E_USING_ABSOLUTE_COORDINATES            SLIMDISK_HRESULT(0xA0040801)
#define VM_E_USING_RELATIVE_COORDINATES            SLIMDISK_HRESULT(0xA0040802)
#define VM_E_SET_EXCLUSIVE_MODE_FAIL               SLIMDISK_HRESULT(0xA0040825)
#define VM_E_NO_DISPLAY                            SLIMDISK_HRESULT(0xA0040850)
#define VM_E_SECURITY_DUPLICATE_USER               SLIMDISK_HRESULT(0xA0040900)

/* Only Windows Virtual PC has these; nothing here answers them. */

#define E_INVALID_DRIVE                            SLIMDISK_HRESULT(0x8007000F)
#define VM_E_VM_RUNNING_OR_SAVED                   SLIMDISK_HRESULT(0xA004020B)
#define VM_E_UNSUPPORTED_HD_DISK_TYPE              SLIMDISK_HRESULT(0xA0040686)
#define VM_E_PARENT_MODIFIED                       SLIMDISK_HRESULT(0xA0040687)
#define VM_E_USB_CONNECTOR_DRIVER_ERROR            SLIMDISK_HRESULT(0xA0040925)
#define VM_E_USB_ATTACH_FAILED                     SLIMDISK_HRESULT(0xA0040926)
#define VM_E_USB_DETACH_FAILED                     SLIMDISK_HRESULT(0xA0040927)
#define VM_E_USB_EXTERNAL_VM                       SLIMDISK_HRESULT(0xA0040929)
#define VM_E_USB_ENUMERATION_FAILED_MORE_DEVICES   SLIMDISK_HRESULT(0xA0040930)
#define VM_E_USB_ATTACH_FAILED_MORE_DEVICES        SLIMDISK_HRESULT(0xA0040931)
#define VM_E_USB_ATTACH_FAILED_GP_ERROR            SLIMDISK_HRESULT(0xA0040932)
#define VM_E_USB_ATTACH_FAILED_ALREADY_ASSIGNED    SLIMDISK_HRESULT(0xA0040933)
#define VM_E_HARDWARE_VIRTUALIZATION_DISABLED      SLIMDISK_HRESULT(0xA0040951)
#define VM_E_VMVIRTUALPC_OLDER_VERSION             SLIMDISK_HRESULT(0xA0040952)
#define VM_E_OTHER_VIRTUALIZATION_SOFTWARE         SLIMDISK_HRESULT(0xA0040953)
#define VM_E_USB_ENUMERATION_FAILED                SLIMDISK_HRESULT(0xA0040928)
#define VM_E_UNSUPPORTED_HARDWARE                  SLIMDISK_HRESULT(0xA0040950)

/* ------------------------------------------------------------------ Enumerations */

/* Each is 32 bits wide in every call, whatever a compiler makes of an `enum`. */

/* How an image stores the guest's disk. There is no 3. */
typedef int32_t VMHardDiskType;
enum {
    vmDiskType_Dynamic = 0,
    vmDiskType_FixedSize = 1,
    vmDiskType_Differencing = 2,
    vmDiskType_HostDrive = 4 /* nothing here has this type */
};

/* How a task ended. */
typedef int32_t VMTaskResult;
enum {
    vmTaskResult_Success = 0,
    vmTaskResult_Cancelled = 1,
    vmTaskResult_UnexpectedError = 2,
    vmTaskResult_OutOfMemoryError = 3,
    vmTaskResult_DiskRelatedError = 4, /* no room, or a read or write failed */
    vmTaskResult_IncompatibleSavedStateError = 5,
    vmTaskResult_TimeOutError = 6, /* it has not ended yet */
    vmTaskResult_IllegalValueError = 7,
    vmTaskResult_ThreadCrashError = 8,
    vmTaskResult_ShutdownAbort = 9 /* Windows Virtual PC only; nothing here answers it */
};

/* What a floppy disk image holds; only LowDensity and HighDensity can be made. */
typedef int32_t VMFloppyDiskImageType;
enum {
    vmFloppyDiskImage_Unknown = 0,
    vmFloppyDiskImage_LowDensity = 1,  /* 720 KB */
    vmFloppyDiskImage_HighDensity = 2, /* 1.44 MB */
    vmFloppyDiskImage_DMF = 3,
    vmFloppyDiskImage_LowDensitySingleSided = 4,
    vmFloppyDiskImage_MediumDensity = 5,
    vmFloppyDiskImage_HighDensityMSS = 6
};

/* The following belong to the reference's other interfaces. They are here so that a
 * program finds them; no function takes or answers them. */

typedef int32_t VMUndoAction;
enum {
    vmUndoAction_Discard = 0,
    vmUndoAction_Keep = 1,
    vmUndoAction_Commit = 2
};

typedef int32_t VMVMState;
enum {
    vmVMState_Invalid = 0,
    vmVMState_TurnedOff = 1,
    vmVMState_Saved = 2,
    vmVMState_TurningOn = 3,
    vmVMState_Restoring = 4,
    vmVMState_Running = 5,
    vmVMState_Paused = 6,
    vmVMState_Saving = 7,
    vmVMState_TurningOff = 8,
    vmVMState_MergingDrives = 9,
    vmVMState_DeleteMachine = 10
};

typedef int32_t VMDriveType;
enum {
    vmDriveType_Null = 0,
    vmDriveType_HardDisk = 1,
    vmDriveType_DVD = 2
};

typedef int32_t VMDriveBusType;
enum {
    vmDriveBusType_Invalid = -1,
    vmDriveBusType_IDE = 0,
    vmDriveBusType_SCSI = 1
};

typedef int32_t VMVirtualServerEvent;
enum {
    vmVirtualServerEvent_ServiceEvent = 1,
    vmVirtualServerEvent_VMStateChange = 2,
    vmVirtualServerEvent_EventLogged = 3,
    vmVirtualServerEvent_VMHeartbeatStopped = 4
};

/* The numbers are the reference's; how it spells these names could not be found. */
typedef int32_t VMEventType;
enum {
    vmEventType_VirtualServerStarted = 0,
    vmEventType_VirtualServerStopped = 1,
    vmEventType_VMLaunched = 2,
    vmEventType_VMStateRestored = 3,
    vmEventType_VMStateSaved = 4,
    vmEventType_VMTurnedOff = 5,
    vmEventType_VMTurnedOffByGuest = 6,
    vmEventType_VMReset = 7,
    vmEventType_VMNoHeartbeat = 8,
    vmEventType_VMProcessorError = 9,
    vmEventType_HostDiskSpaceWarning = 10,
    vmEventType_HostDiskSpaceError = 11
};

typedef int32_t VHD_FLAGS;
enum {
    VHD_NORMAL = 0,
    VHD_NW_MAPPED = 1,
    VHD_MOUNT_AS_READONLY = 2,
    VHD_FORCE_UNMOUNT = 3
};

/* ------------------------------------------------------------------------ Objects */

/* Only pointers to these exist; they are handles (see above). */
typedef struct IVMVirtualServer IVMVirtualServer;
typedef struct IVMHardDisk IVMHardDisk;
typedef struct IVMTask IVMTask;
typedef struct IVMTask IVMTask2; /* every task is both */
typedef struct IVMTaskCollection IVMTaskCollection;
typedef struct IEnumVMTask IEnumVMTask;
typedef struct IVMSecurity IVMSecurity; /* there are none */

/* Text by number: what is an array of strings in a VARIANT elsewhere. */
typedef struct SlimdiskStringList SlimdiskStringList;

/* ------------------------------------------------------------------------ Library */

/* The number of the ABI that the library has, made like SLIMDISK_ABI_VERSION. A program
 * that was built with this header can use a library whose upper half is the same and
 * whose lower half is not smaller.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_AbiVersion(uint32_t *version);

/* The version of slimdisk, "0.1.0". Free *version with slimdisk_FreeString.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_Version(char **version);

/* What went wrong in the calling thread's most recent call that failed, in one line:
 * what was found, in which file, and what to do. Calls that succeed leave it as it is.
 * Free *description with slimdisk_FreeString.
 * Codes: S_OK; S_FALSE and NULL if no call of this thread has failed yet; E_POINTER. */
HRESULT slimdisk_LastErrorDescription(char **description);

/* Frees text that slimdisk has given. NULL is nothing to free. Text from elsewhere, or
 * freed twice, must not be passed: that cannot be told.
 * Codes: S_OK. */
HRESULT slimdisk_FreeString(char *text);

/* One more holder of a handle of any type: slimdisk_Release is due once more.
 * Codes: S_OK; E_POINTER if it is no handle. */
HRESULT slimdisk_AddRef(void *object);

/* One holder fewer; the handle is gone with its last one.
 * Codes: S_OK; E_POINTER if it is no handle (any more). */
HRESULT slimdisk_Release(void *object);

/* How many handles there are in this process: 0 when all were given back. For tests of
 * programs.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_OpenHandles(size_t *count);

/* How many strings the list has.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_StringList_get_Count(SlimdiskStringList *list, int32_t *count);

/* The string at `index`, from 0 to count - 1. Free *text with slimdisk_FreeString.
 * Codes: S_OK, E_POINTER; DISP_E_BADINDEX if there is none. */
HRESULT slimdisk_StringList_get_Item(SlimdiskStringList *list, int32_t index,
                                     char **text);

/* --------------------------------------------------------------- IVMVirtualServer */

/* How a server is to behave. Set all of it to 0 first and `size` to its sizeof. */
typedef struct SlimdiskServerOptions {
    size_t size; /* sizeof(SlimdiskServerOptions) */
    const char *const *searchPaths; /* as in put_SearchPaths */
    size_t searchPathCount;
    const char *const *parentFolders; /* full paths of folders in which parents of
                                       * differencing disks may be looked for, beside
                                       * the child's own folder */
    size_t parentFolderCount;
    int32_t keepFinishedMilliseconds; /* how long a task stays in Tasks after its end;
                                       * 0 for the usual ten minutes */
    VARIANT_BOOL followParents; /* whether the path of a parent that an image names may
                                 * lead anywhere */
    int16_t reserved; /* 0 */
} SlimdiskServerOptions;

/* A new server: what stands for CoCreateInstance(VirtualServer.Application). It lives in
 * this process, and there may be several; tasks of one know nothing of the others', but
 * the files' locks do. `options` may be NULL. Release *server.
 * Codes: S_OK, E_POINTER; E_INVALIDARG for options that make no sense or are of another
 * size; those of put_SearchPaths and E_BAD_PATHNAME for the folders. */
HRESULT slimdisk_CreateVirtualServer(const SlimdiskServerOptions *options,
                                     IVMVirtualServer **server);

/* Shuts the server down: from now on every operation that would begin a task answers
 * VM_E_APP_SHUTTING_DOWN, the running tasks stop at their next sound point
 * (vmTaskResult_Cancelled), and the call returns when all have. WAITS for them, a few
 * seconds at most on a common disk.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_VirtualServer_ShutDown(IVMVirtualServer *server);

/* Whether the server was told to shut down.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_VirtualServer_get_IsShuttingDown(IVMVirtualServer *server,
                                                  VARIANT_BOOL *isShuttingDown);

/* The hard disk image at a full path. What is in the file is not looked at: a file that
 * is no image shows when something is asked of it. Release *hardDisk.
 * Codes: S_OK, E_POINTER, E_FILE_NOT_FOUND, E_PATH_NOT_FOUND; E_INVALID_NAME for one of
 * *?:<>/|"\ in a name; E_BAD_PATHNAME for an empty or relative path; E_BUFFER_OVERFLOW
 * for one of 260 characters (UTF-16 units) or more; DISP_E_EXCEPTION. */
HRESULT slimdisk_IVMVirtualServer_GetHardDisk(IVMVirtualServer *server,
                                              const char *imagePath,
                                              IVMHardDisk **hardDisk);

/* The files with the name of a hard disk image under the search paths, and under
 * `count` further folders at `additionalSearchPaths` (full paths; NULL if count is 0).
 * READS the folders, down to 16 levels. Release *hardDiskFileList.
 * Codes: S_OK, E_POINTER; E_INVALIDARG if that is no array of paths. */
HRESULT slimdisk_IVMVirtualServer_GetHardDiskFiles(
    IVMVirtualServer *server, const char *const *additionalSearchPaths, size_t count,
    SlimdiskStringList **hardDiskFileList);

/* Begins to make a dynamic disk of `size` MB (MiB). A folder that is missing is made; the
 * file is there when the task has succeeded, and nothing is left of it otherwise.
 * Release *diskTask.
 * Codes: S_OK, E_POINTER, E_PATH_NOT_FOUND, E_INVALID_NAME, E_BAD_PATHNAME,
 * E_BUFFER_OVERFLOW, E_ALREADY_EXISTS; E_INVALIDARG for 0 or less;
 * VM_E_IMAGE_SIZE_TOO_SMALL below 3, VM_E_IMAGE_SIZE_TOO_LARGE above 2,088,960;
 * E_DISK_FULL unless 8 MB are free; VM_E_FILE_TOO_LARGE_FOR_VOLUME if the volume could
 * not hold the file with all its blocks; VM_E_APP_SHUTTING_DOWN, E_SHARING_VIOLATION (a
 * task is making it), E_ACCESSDENIED, DISP_E_EXCEPTION. */
HRESULT slimdisk_IVMVirtualServer_CreateDynamicVirtualHardDisk(IVMVirtualServer *server,
                                                               const char *imagePath,
                                                               int32_t size,
                                                               IVMTask **diskTask);

/* The same for a fixed disk, whose room is taken from the start.
 * Codes: the same, but E_DISK_FULL unless all of it fits. */
HRESULT slimdisk_IVMVirtualServer_CreateFixedVirtualHardDisk(IVMVirtualServer *server,
                                                             const char *imagePath,
                                                             int32_t size,
                                                             IVMTask **diskTask);

/* The same for a differencing disk, whose parent is the image at `parentPath`. One of the
 * two paths may be relative to the folder of the other.
 * Codes: the same but those of the size; E_BAD_PATHNAME if both paths are relative;
 * E_FILE_NOT_FOUND if there is no such parent; VM_E_INVALID_HD_FILE, E_SHARING_VIOLATION
 * and the like for a parent that cannot be opened. */
HRESULT slimdisk_IVMVirtualServer_CreateDifferencingVirtualHardDisk(
    IVMVirtualServer *server, const char *imagePath, const char *parentPath,
    IVMTask **diskTask);

/* Cannot be done: how an image that is linked to a drive of the host names the drive was
 * never published. The arguments are looked at as the others are.
 * Codes: E_NOTIMPL, E_POINTER, E_INVALID_NAME, E_BAD_PATHNAME, E_BUFFER_OVERFLOW,
 * E_ALREADY_EXISTS, VM_E_APP_SHUTTING_DOWN. */
HRESULT slimdisk_IVMVirtualServer_CreateHostDriveVirtualHardDisk(
    IVMVirtualServer *server, const char *imagePath, const char *hostDriveIdentifier,
    VARIANT_BOOL mountReadOnly, IVMTask **diskTask);

/* Makes a floppy disk image, unformatted: vmFloppyDiskImage_LowDensity or _HighDensity.
 * There is no task; it is done when the call returns. A folder that is missing is made.
 * Codes: S_OK, E_POINTER, E_PATH_NOT_FOUND, E_INVALID_NAME, E_BAD_PATHNAME,
 * E_BUFFER_OVERFLOW, E_ALREADY_EXISTS, E_DISK_FULL; E_INVALIDARG for another type;
 * VM_E_APP_SHUTTING_DOWN, E_ACCESSDENIED, DISP_E_EXCEPTION. */
HRESULT slimdisk_IVMVirtualServer_CreateFloppyDiskImage(IVMVirtualServer *server,
                                                        const char *imagePath,
                                                        VMFloppyDiskImageType imageType);

/* The tasks that run, and those that ended a short while ago, the oldest first, as they
 * are now: the collection does not change. Release *tasks.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMVirtualServer_get_Tasks(IVMVirtualServer *server,
                                            IVMTaskCollection **tasks);

/* The folders in which GetHardDiskFiles looks. Release *searchPaths.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMVirtualServer_get_SearchPaths(IVMVirtualServer *server,
                                                  SlimdiskStringList **searchPaths);

/* Replaces them by the `count` full paths at `searchPaths`; all or none.
 * Codes: S_OK; E_POINTER, also for NULL with a count; E_INVALIDARG for a NULL in it;
 * E_FILE_NOT_FOUND and E_PATH_NOT_FOUND for a folder that is not there;
 * E_INVALID_NAME, E_BAD_PATHNAME, E_BUFFER_OVERFLOW. */
HRESULT slimdisk_IVMVirtualServer_put_SearchPaths(IVMVirtualServer *server,
                                                  const char *const *searchPaths,
                                                  size_t count);

/* The version in the reference's form v.s.bbb.t ee ("0.1.000.0 SE"): version, build, 0
 * for a release, and an edition, of which there is one. slimdisk_Version is the plain
 * one. Free *version with slimdisk_FreeString.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMVirtualServer_get_Version(IVMVirtualServer *server, char **version);

/* --------------------------------------------------------------------- IVMHardDisk */

/* Of all operations: the image is opened, looked at and locked during the call, and what
 * can be told at once is the call's result. What comes later is the task's:
 * IVMTask2::Error and vmTaskResult_DiskRelatedError for a disk that fills up meanwhile,
 * say. Release the task. */

/* Begins to give back what the guest does not use: free space of its file systems, and
 * zeros anywhere. In place, without temporary space, and the image is sound at every
 * instant. Dynamic disks only; slimdisk_HardDisk_Compact does differencing ones, too.
 * Codes: S_OK, E_POINTER; VM_E_INVALID_HD_FILE if it is no sound image;
 * E_SHARING_VIOLATION if it is in use; VM_E_WRONG_HD_IMAGE_TYPE unless it is dynamic;
 * VM_E_FILE_READ_ONLY; VM_E_APP_SHUTTING_DOWN; E_FILE_NOT_FOUND if it has gone
 * meanwhile; E_ACCESSDENIED, DISP_E_EXCEPTION. E_DISK_FULL comes from the task, and only
 * if the host's file has holes where a block must go. */
HRESULT slimdisk_IVMHardDisk_Compact(IVMHardDisk *disk, IVMTask **compactTask);

/* Begins to copy the guest's disk into a new image, dynamic or fixed, at a full path. The
 * source is left intact. The new file is there when the task has succeeded.
 * Codes: S_OK, E_POINTER, E_PATH_NOT_FOUND, E_INVALID_NAME, E_BAD_PATHNAME,
 * E_BUFFER_OVERFLOW, E_ALREADY_EXISTS; E_SHARING_VIOLATION if the image or a parent is in
 * use; E_DISK_FULL; VM_E_FILE_TOO_LARGE_FOR_VOLUME; VM_E_INVALID_HD_FILE;
 * VM_E_WRONG_HD_IMAGE_TYPE for another type; VM_E_PARENT_PATH_NOT_FOUND,
 * VM_E_PARENT_CHILD_ID_MISMATCH; VM_E_APP_SHUTTING_DOWN; E_FILE_NOT_FOUND,
 * E_ACCESSDENIED, DISP_E_EXCEPTION. */
HRESULT slimdisk_IVMHardDisk_Convert(IVMHardDisk *disk,
                                     const char *convertedDiskImagePath,
                                     VMHardDiskType convertedDiskImageType,
                                     IVMTask **convertTask);

/* Begins to merge a differencing disk into its parent. The disk's own file stays as it is
 * and reads the same at every instant; remove it when the task has succeeded.
 * Codes: S_OK, E_POINTER; E_SHARING_VIOLATION if the disk or a parent is in use or in a
 * saved state, or another child of the parent lies beside it;
 * VM_E_WRONG_HD_IMAGE_TYPE unless it is a differencing disk; VM_E_FILE_READ_ONLY (the
 * parent); VM_E_PARENT_PATH_NOT_FOUND, VM_E_PARENT_CHILD_ID_MISMATCH;
 * VM_E_INVALID_HD_FILE; E_DISK_FULL; VM_E_APP_SHUTTING_DOWN; E_FILE_NOT_FOUND,
 * E_ACCESSDENIED, DISP_E_EXCEPTION. */
HRESULT slimdisk_IVMHardDisk_Merge(IVMHardDisk *disk, IVMTask **mergeTask);

/* Begins to merge a differencing disk with all its parents into a new image, dynamic or
 * fixed. None of them is changed.
 * Codes: those of Convert, and E_INVALIDARG for an empty path;
 * VM_E_WRONG_HD_IMAGE_TYPE also unless it is a differencing disk. */
HRESULT slimdisk_IVMHardDisk_MergeTo(IVMHardDisk *disk, const char *newDiskImagePath,
                                     VMHardDiskType newDiskImageType,
                                     IVMTask **mergeTask);

/* The full path of the image. Free *file with slimdisk_FreeString.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMHardDisk_get_File(IVMHardDisk *disk, char **file);

/* The drive of the host that the image is linked to: always NULL, for no image that is
 * known here is linked to one.
 * Codes: S_FALSE, E_POINTER, E_FILE_NOT_FOUND, VM_E_HD_IMAGE_OPEN_FAIL,
 * VM_E_HD_IMAGE_ACCESS. */
HRESULT slimdisk_IVMHardDisk_get_HostDriveIdentifier(IVMHardDisk *disk,
                                                     char **hostDriveIdentifier);

/* Free bytes of the volume that the image lies on, for this user.
 * Codes: S_OK, E_POINTER; E_BAD_PATHNAME if the folder has gone; DISP_E_EXCEPTION. */
HRESULT slimdisk_IVMHardDisk_get_HostFreeDiskSpace(IVMHardDisk *disk,
                                                   uint64_t *hostFreeDiskSpace);

/* The parent of a differencing disk, which is found and opened to see that it is the
 * right one. Release *parent.
 * Codes: S_OK; S_FALSE and NULL if it is no differencing disk; E_POINTER;
 * E_FILE_NOT_FOUND if the disk or its parent is not there; VM_E_HD_IMAGE_OPEN_FAIL for
 * one in use or not sound; VM_E_HD_IMAGE_ACCESS for one that cannot be read;
 * VM_E_PARENT_CHILD_ID_MISMATCH; DISP_E_EXCEPTION. */
HRESULT slimdisk_IVMHardDisk_get_Parent(IVMHardDisk *disk, IVMHardDisk **parent);

/* Has a differencing disk name the image of `parent` as its parent from now on: the same
 * disk in another place. WRITES the disk's image before it returns.
 * Codes: those of get_Parent but S_FALSE; VM_E_WRONG_HD_IMAGE_TYPE if it is no
 * differencing disk; VM_E_FILE_READ_ONLY, VM_E_APP_SHUTTING_DOWN. */
HRESULT slimdisk_IVMHardDisk_put_Parent(IVMHardDisk *disk, IVMHardDisk *parent);

/* Always NULL: who may use a disk is said by the rights of its file.
 * Codes: E_NOTIMPL, E_POINTER. */
HRESULT slimdisk_IVMHardDisk_get_Security(IVMHardDisk *disk, IVMSecurity **security);

/* The size of the guest's disk in bytes.
 * Codes: S_OK, E_POINTER; E_FILE_NOT_FOUND; VM_E_HD_IMAGE_OPEN_FAIL if the image is in
 * use or not sound; VM_E_HD_IMAGE_ACCESS if it cannot be read; DISP_E_EXCEPTION. */
HRESULT slimdisk_IVMHardDisk_get_SizeInGuest(IVMHardDisk *disk, uint64_t *sizeInGuest);

/* The length of the image's file in bytes.
 * Codes: S_OK, E_POINTER, E_FILE_NOT_FOUND, DISP_E_EXCEPTION. */
HRESULT slimdisk_IVMHardDisk_get_SizeOnHost(IVMHardDisk *disk, uint64_t *sizeOnHost);

/* How the image stores the disk.
 * Codes: those of get_SizeInGuest. */
HRESULT slimdisk_IVMHardDisk_get_Type(IVMHardDisk *disk, VMHardDiskType *type);

/* ------------------------------------------------------------ IVMTask and IVMTask2 */

/* WAITS until the task has ended, or for `timeout` milliseconds: 0 to 4,000,000, or -1
 * for no end. S_OK says nothing of which it was: ask IsComplete, or Result.
 * Codes: S_OK; E_POINTER, also for another timeout. */
HRESULT slimdisk_IVMTask_WaitForCompletion(IVMTask *task, int32_t timeout);

/* Asks the task to stop at its next sound point, and returns at once. A task that is past
 * its last one still succeeds.
 * Codes: S_OK, E_POINTER; E_FAIL if it has ended already. */
HRESULT slimdisk_IVMTask_Cancel(IVMTask *task);

/* What the task does, in a few words: "Compact /disks/a.vhd". Free *description with
 * slimdisk_FreeString.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMTask_get_Description(IVMTask *task, char **description);

/* The task's number, unique in its server.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMTask_get_ID(IVMTask *task, int32_t *id);

/* Whether Cancel can still do something.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMTask_get_IsCancelable(IVMTask *task, VARIANT_BOOL *isCancelable);

/* Whether the task has ended, in whatever way.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMTask_get_IsComplete(IVMTask *task, VARIANT_BOOL *isComplete);

/* How far the task has come, 0 to 100. Never goes back; 100 only when all was done.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMTask_get_PercentCompleted(IVMTask *task, int32_t *percentCompleted);

/* How the task ended; vmTaskResult_TimeOutError while it has not.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMTask_get_Result(IVMTask *task, VMTaskResult *result);

/* The code of why the task failed; S_OK if it did not, or has not ended yet.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMTask2_get_Error(IVMTask2 *task, int32_t *outError);

/* The same in words; "" if there is none. Free *errorDescription with
 * slimdisk_FreeString.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMTask2_get_ErrorDescription(IVMTask2 *task, char **errorDescription);

/* --------------------------------------------------------------- IVMTaskCollection */

/* How many tasks the collection has.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMTaskCollection_get_Count(IVMTaskCollection *tasks, int32_t *count);

/* The task at `index`, from 1 to count. Release *task.
 * Codes: S_OK, E_POINTER; DISP_E_BADINDEX if there is none, or the server has forgotten
 * it by now. */
HRESULT slimdisk_IVMTaskCollection_get_Item(IVMTaskCollection *tasks, int32_t index,
                                            IVMTask **task);

/* What For Each goes by: the tasks one after the other. Release *enumerator.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IVMTaskCollection_get__NewEnum(IVMTaskCollection *tasks,
                                                IEnumVMTask **enumerator);

/* The next `count` tasks, as many as there are; those that the server has forgotten are
 * passed over. `tasks` has room for `count` handles, the rest of which are NULL.
 * `fetched` gets their number, and may be NULL if count is 1. Release each.
 * Codes: S_OK; S_FALSE if there were fewer; E_POINTER. */
HRESULT slimdisk_IEnumVMTask_Next(IEnumVMTask *enumerator, uint32_t count,
                                  IVMTask **tasks, uint32_t *fetched);

/* Passes `count` tasks over.
 * Codes: S_OK; S_FALSE if there were fewer; E_POINTER. */
HRESULT slimdisk_IEnumVMTask_Skip(IEnumVMTask *enumerator, uint32_t count);

/* Back to the first.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IEnumVMTask_Reset(IEnumVMTask *enumerator);

/* Another enumerator at the same place. Release *copy.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_IEnumVMTask_Clone(IEnumVMTask *enumerator, IEnumVMTask **copy);

/* ------------------------------------------------ Beyond the Virtual Server reference */

/* How far a compaction looks. */
typedef int32_t SlimdiskMode;
enum {
    SLIMDISK_MODE_QUICK = 0,    /* free maps; zeros only where no free map speaks */
    SLIMDISK_MODE_FULL = 1,     /* free maps, and zeros anywhere: reads all blocks */
    SLIMDISK_MODE_PREZEROED = 2 /* zeros alone */
};

/* To be added up. A flag that an operation does not have is E_INVALIDARG.
 *   C: Compact and Plan, V: Convert and MergeTo, M: Merge */
enum {
    SLIMDISK_FLAG_VERIFY = 1,             /* C V M: compare the guest's bytes before
                                           * and after */
    SLIMDISK_FLAG_TOUCH = 2,              /* C: leave the file's new time of change */
    SLIMDISK_FLAG_DROP_UNPARTITIONED = 4, /* C V: what lies outside every partition
                                           * counts as free */
    SLIMDISK_FLAG_DROP_SWAP = 8,          /* C V: so does what is in swap areas and page
                                           * files, if no system is asleep */
    SLIMDISK_FLAG_DISCARD_SHADOW_COPIES = 16, /* C V: shadow copies of NTFS may be lost */
    SLIMDISK_FLAG_PRESERVE = 32,          /* C: only what reads the same afterwards */
    SLIMDISK_FLAG_LEAVE_OUT_FREE = 64,    /* V: free space is not copied */
    SLIMDISK_FLAG_ORPHAN_CHILDREN = 128   /* C: free space goes although disks in the same
                                           * folder name this one as their parent: they
                                           * cannot be used any more. A VHD, whose
                                           * children would not notice, is refused
                                           * (VM_E_WRONG_HD_IMAGE_TYPE) */
};

/* Compact with a mode and flags, for dynamic and differencing disks.
 * Codes: those of IVMHardDisk::Compact; E_INVALIDARG; VM_E_PARENT_PATH_NOT_FOUND and
 * VM_E_PARENT_CHILD_ID_MISMATCH. */
HRESULT slimdisk_HardDisk_Compact(IVMHardDisk *disk, SlimdiskMode mode, uint32_t flags,
                                  IVMTask **task);

/* What that would do, as a JSON object: the one that `slimdisk plan --json` prints.
 * Writes nothing. READS what the mode needs before it returns: the free maps, or all of
 * the disk. Free *report with slimdisk_FreeString.
 * Codes: those of slimdisk_HardDisk_Compact. */
HRESULT slimdisk_HardDisk_Plan(IVMHardDisk *disk, SlimdiskMode mode, uint32_t flags,
                               char **report);

/* Convert with flags. `blockSize` is that of a new dynamic image in bytes, a power of two
 * from 512 KiB; 0 for the usual 2 MiB.
 * Codes: those of IVMHardDisk::Convert; E_INVALIDARG. */
HRESULT slimdisk_HardDisk_Convert(IVMHardDisk *disk, const char *imagePath,
                                  VMHardDiskType imageType, uint32_t blockSize,
                                  uint32_t flags, IVMTask **task);

/* Merge with flags.
 * Codes: those of IVMHardDisk::Merge; E_INVALIDARG. */
HRESULT slimdisk_HardDisk_Merge(IVMHardDisk *disk, uint32_t flags, IVMTask **task);

/* MergeTo with flags; `blockSize` as for Convert.
 * Codes: those of IVMHardDisk::MergeTo; E_INVALIDARG. */
HRESULT slimdisk_HardDisk_MergeTo(IVMHardDisk *disk, const char *imagePath,
                                  VMHardDiskType imageType, uint32_t blockSize,
                                  uint32_t flags, IVMTask **task);

/* All parents of a differencing disk, its own first, as a JSON array of objects with
 * path, format, type, unique_id, found_by and notes; [] for another disk. Free *chain with
 * slimdisk_FreeString.
 * Codes: S_OK, E_POINTER, E_FILE_NOT_FOUND, E_SHARING_VIOLATION, VM_E_INVALID_HD_FILE,
 * VM_E_PARENT_PATH_NOT_FOUND, VM_E_PARENT_CHILD_ID_MISMATCH, DISP_E_EXCEPTION. */
HRESULT slimdisk_HardDisk_get_Chain(IVMHardDisk *disk, char **chain);

/* The step that a task is in. */
typedef int32_t SlimdiskPhase;
enum {
    SLIMDISK_PHASE_OTHER = -1, /* one that this header does not know */
    SLIMDISK_PHASE_NONE = 0,   /* before the first */
    SLIMDISK_PHASE_MAP = 1,    /* reading the volumes' free maps */
    SLIMDISK_PHASE_SEARCH = 2, /* looking for zeros */
    SLIMDISK_PHASE_VERIFY_BEFORE = 3,
    SLIMDISK_PHASE_RELEASE = 4,  /* giving blocks up */
    SLIMDISK_PHASE_RELOCATE = 5, /* moving blocks */
    SLIMDISK_PHASE_TRUNCATE = 6, /* cutting the file */
    SLIMDISK_PHASE_VERIFY_AFTER = 7,
    SLIMDISK_PHASE_COPY = 8,  /* writing a new image */
    SLIMDISK_PHASE_MERGE = 9  /* writing into the parent */
};

/* The step that the task is in; after its end, the last one.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_Task_get_Phase(IVMTask *task, SlimdiskPhase *phase);

/* Bytes done, and bytes to do, in this step.
 * Codes: S_OK, E_POINTER. */
HRESULT slimdisk_Task_get_BytesDone(IVMTask *task, uint64_t *bytes);
HRESULT slimdisk_Task_get_BytesTotal(IVMTask *task, uint64_t *bytes);

/* Bytes done in a second of this step, and how many milliseconds the rest of it will take
 * at that rate.
 * Codes: S_OK; S_FALSE and 0 while that is not known, and after the end; E_POINTER. */
HRESULT slimdisk_Task_get_BytesPerSecond(IVMTask *task, uint64_t *bytes);
HRESULT slimdisk_Task_get_TimeLeft(IVMTask *task, uint64_t *milliseconds);

/* What was found, done and won, as the JSON object that the command prints with --json.
 * Free *report with slimdisk_FreeString.
 * Codes: S_OK; S_FALSE and NULL while the task runs; E_POINTER. */
HRESULT slimdisk_Task_get_Report(IVMTask *task, char **report);

/* ---------------------------------------------------------------- UTF-16 on Windows */

#ifdef _WIN32
/* The twins with text in UTF-16: arguments, codes and owners are the same. */
typedef wchar_t SlimdiskWChar;

typedef struct SlimdiskServerOptionsW {
    size_t size; /* sizeof(SlimdiskServerOptionsW) */
    const SlimdiskWChar *const *searchPaths;
    size_t searchPathCount;
    const SlimdiskWChar *const *parentFolders;
    size_t parentFolderCount;
    int32_t keepFinishedMilliseconds;
    VARIANT_BOOL followParents;
    int16_t reserved;
} SlimdiskServerOptionsW;

HRESULT slimdisk_VersionW(SlimdiskWChar **version);
HRESULT slimdisk_LastErrorDescriptionW(SlimdiskWChar **description);
HRESULT slimdisk_FreeStringW(SlimdiskWChar *text);
HRESULT slimdisk_StringList_get_ItemW(
    SlimdiskStringList *list, int32_t index, SlimdiskWChar **text);
HRESULT slimdisk_CreateVirtualServerW(
    const SlimdiskServerOptionsW *options, IVMVirtualServer **server);
HRESULT slimdisk_IVMVirtualServer_GetHardDiskW(
    IVMVirtualServer *server, const SlimdiskWChar *imagePath, IVMHardDisk **hardDisk);
HRESULT slimdisk_IVMVirtualServer_GetHardDiskFilesW(
    IVMVirtualServer *server, const SlimdiskWChar *const *additionalSearchPaths,
    size_t count, SlimdiskStringList **hardDiskFileList);
HRESULT slimdisk_IVMVirtualServer_CreateDynamicVirtualHardDiskW(
    IVMVirtualServer *server, const SlimdiskWChar *imagePath, int32_t size,
    IVMTask **diskTask);
HRESULT slimdisk_IVMVirtualServer_CreateFixedVirtualHardDiskW(
    IVMVirtualServer *server, const SlimdiskWChar *imagePath, int32_t size,
    IVMTask **diskTask);
HRESULT slimdisk_IVMVirtualServer_CreateDifferencingVirtualHardDiskW(
    IVMVirtualServer *server, const SlimdiskWChar *imagePath,
    const SlimdiskWChar *parentPath, IVMTask **diskTask);
HRESULT slimdisk_IVMVirtualServer_CreateHostDriveVirtualHardDiskW(
    IVMVirtualServer *server, const SlimdiskWChar *imagePath,
    const SlimdiskWChar *hostDriveIdentifier, VARIANT_BOOL mountReadOnly,
    IVMTask **diskTask);
HRESULT slimdisk_IVMVirtualServer_CreateFloppyDiskImageW(
    IVMVirtualServer *server, const SlimdiskWChar *imagePath,
    VMFloppyDiskImageType imageType);
HRESULT slimdisk_IVMVirtualServer_put_SearchPathsW(
    IVMVirtualServer *server, const SlimdiskWChar *const *searchPaths, size_t count);
HRESULT slimdisk_IVMVirtualServer_get_VersionW(
    IVMVirtualServer *server, SlimdiskWChar **version);
HRESULT slimdisk_IVMHardDisk_ConvertW(
    IVMHardDisk *disk, const SlimdiskWChar *convertedDiskImagePath,
    VMHardDiskType convertedDiskImageType, IVMTask **convertTask);
HRESULT slimdisk_IVMHardDisk_MergeToW(
    IVMHardDisk *disk, const SlimdiskWChar *newDiskImagePath,
    VMHardDiskType newDiskImageType, IVMTask **mergeTask);
HRESULT slimdisk_IVMHardDisk_get_FileW(IVMHardDisk *disk, SlimdiskWChar **file);
HRESULT slimdisk_IVMHardDisk_get_HostDriveIdentifierW(
    IVMHardDisk *disk, SlimdiskWChar **hostDriveIdentifier);
HRESULT slimdisk_IVMTask_get_DescriptionW(IVMTask *task, SlimdiskWChar **description);
HRESULT slimdisk_IVMTask2_get_ErrorDescriptionW(
    IVMTask2 *task, SlimdiskWChar **errorDescription);
HRESULT slimdisk_HardDisk_PlanW(
    IVMHardDisk *disk, SlimdiskMode mode, uint32_t flags, SlimdiskWChar **report);
HRESULT slimdisk_HardDisk_ConvertW(
    IVMHardDisk *disk, const SlimdiskWChar *imagePath, VMHardDiskType imageType,
    uint32_t blockSize, uint32_t flags, IVMTask **task);
HRESULT slimdisk_HardDisk_MergeToW(
    IVMHardDisk *disk, const SlimdiskWChar *imagePath, VMHardDiskType imageType,
    uint32_t blockSize, uint32_t flags, IVMTask **task);
HRESULT slimdisk_HardDisk_get_ChainW(IVMHardDisk *disk, SlimdiskWChar **chain);
HRESULT slimdisk_Task_get_ReportW(IVMTask *task, SlimdiskWChar **report);
#endif

#ifdef __cplusplus
}
#endif

#endif /* SLIMDISK_H */
