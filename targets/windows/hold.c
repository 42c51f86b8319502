/* Holds a file open:  hold SHARE ACCESS FILE
 *
 * SHARE and ACCESS are made of the letters r, w and d (sharing alone), or are -. It says
 * "held" and waits for the end of its input; it ends with the system's code if the file
 * cannot be opened so. */
#include <stdio.h>
#include <wchar.h>
#include <windows.h>

int wmain(int argc, wchar_t **argv)
{
    DWORD share = 0, access = 0;
    HANDLE file;
    if (argc != 4)
        return 2;
    share |= wcschr(argv[1], L'r') ? FILE_SHARE_READ : 0;
    share |= wcschr(argv[1], L'w') ? FILE_SHARE_WRITE : 0;
    share |= wcschr(argv[1], L'd') ? FILE_SHARE_DELETE : 0;
    access |= wcschr(argv[2], L'r') ? GENERIC_READ : 0;
    access |= wcschr(argv[2], L'w') ? GENERIC_WRITE : 0;
    file = CreateFileW(argv[3], access, share, NULL, OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return (int)GetLastError();
    puts("held");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
