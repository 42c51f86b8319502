/* Runs a program and ends it:  end HOW WHEN PROGRAM [ARGUMENT...]
 *
 * HOW is kill (TerminateProcess), c, break (Ctrl-C, Ctrl-Break), twice (Ctrl-C and
 * Ctrl-Break at once) or close (the window is closed). WHEN is a number of milliseconds,
 * or words that the program must have written to its standard error, which passes
 * through. The exit code is the program's; 137 if TerminateProcess struck, 99 if nothing
 * could be done. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
#include <windows.h>

static HANDLE process;

static int failed(const char *what)
{
    fprintf(stderr, "end: %s: error %lu\n", what, GetLastError());
    exit(99);
}

/* Calls the handlers of the program, as the system does at such an event. */
static void call_handlers(DWORD event)
{
    FARPROC routine = GetProcAddress(GetModuleHandleW(L"kernelbase"), "CtrlRoutine");
    LPTHREAD_START_ROUTINE start;
    HANDLE thread;
    if (routine == NULL)
        failed("there is no CtrlRoutine");
    memcpy(&start, &routine, sizeof start);
    thread = CreateRemoteThread(process, NULL, 0, start, (void *)(UINT_PTR)event, 0, NULL);
    if (thread == NULL)
        failed("the handlers cannot be called");
}

static void strike(const wchar_t *how)
{
    int twice = wcscmp(how, L"twice") == 0;
    if (wcscmp(how, L"kill") == 0)
        TerminateProcess(process, 137);
    /* Ctrl-C goes to all of a console, but for those who ignore it, as this program does. */
    if ((wcscmp(how, L"c") == 0 || twice) && !GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0))
        failed("Ctrl-C");
    /* Wine 8 has no Ctrl-Break (it refuses, or says yes and does nothing), nor does it know
     * when a window is closed. */
    if (wcscmp(how, L"break") == 0 || twice)
        call_handlers(CTRL_BREAK_EVENT);
    if (wcscmp(how, L"close") == 0)
        call_handlers(CTRL_CLOSE_EVENT);
}

static BOOL WINAPI ours(DWORD event)
{
    (void)event;
    return TRUE;
}

/* The command line behind `count` arguments. */
static wchar_t *behind(int count)
{
    wchar_t *at = GetCommandLineW();
    for (; count >= 0; count--) {
        int quoted = 0;
        for (; *at && (quoted || *at != L' '); at++)
            quoted ^= *at == L'"';
        while (*at == L' ')
            at++;
    }
    return at;
}

int wmain(int argc, wchar_t **argv)
{
    SECURITY_ATTRIBUTES inherited = {sizeof inherited, NULL, TRUE};
    STARTUPINFOW start = {0};
    PROCESS_INFORMATION started;
    HANDLE from = NULL, to = NULL;
    wchar_t *rest;
    char words[200] = "", *seen = NULL;
    size_t length = 0, room = 0;
    DWORD code, done;
    int kills, struck = 0;
    long after;

    if (argc < 4)
        return 99;
    kills = wcscmp(argv[1], L"kill") == 0;
    after = wcstol(argv[2], &rest, 10);
    if (*rest)
        wcstombs(words, argv[2], sizeof words - 1);
    start.cb = sizeof start;
    start.dwFlags = STARTF_USESTDHANDLES;
    start.hStdInput = GetStdHandle(STD_INPUT_HANDLE);
    start.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE);
    start.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    /* Outside a terminal Wine gives a program something that is no console. */
    if (!kills && GetConsoleCP() == 0) {
        FreeConsole();
        if (!AllocConsole())
            failed("no console");
    }
    if (*words) {
        if (!CreatePipe(&from, &to, &inherited, 0))
            failed("no pipe");
        SetHandleInformation(from, HANDLE_FLAG_INHERIT, 0);
        start.hStdError = to;
    }
    if (!CreateProcessW(NULL, behind(2), NULL, NULL, TRUE, 0, NULL, NULL, &start,
                        &started))
        failed("the program cannot be started");
    process = started.hProcess;
    /* After the start, so that the program does not inherit it. */
    SetConsoleCtrlHandler(ours, TRUE);
    if (*words) {
        char part[4096];
        CloseHandle(to);
        while (ReadFile(from, part, sizeof part, &done, NULL) && done > 0) {
            fwrite(part, 1, done, stderr);
            if (struck)
                continue;
            if (length + done + 1 > room)
                seen = realloc(seen, room = (length + done + 1) * 2);
            memcpy(seen + length, part, done);
            seen[length += done] = 0;
            struck = strstr(seen, words) != NULL;
            if (struck)
                strike(argv[1]);
        }
    } else {
        struck = WaitForSingleObject(process, (DWORD)after) == WAIT_TIMEOUT;
        if (struck)
            strike(argv[1]);
    }
    WaitForSingleObject(process, INFINITE);
    GetExitCodeProcess(process, &code);
    return (int)code;
}
