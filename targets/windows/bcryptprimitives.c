/* A stand-in for a library of Windows 10 that Wine had not before version 8.17, and that
 * every Rust program asks for random bytes. It is never installed: targets/wine puts it
 * into its own prefix. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length); /* RtlGenRandom */

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T length)
{
    SIZE_T done;
    for (done = 0; done < length;) {
        ULONG part = length - done > 1 << 20 ? 1 << 20 : (ULONG)(length - done);
        if (!SystemFunction036(buffer + done, part))
            return FALSE;
        done += part;
    }
    return TRUE;
}
