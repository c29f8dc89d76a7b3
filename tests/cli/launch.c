/* launch.c - run a program with a pipe of Windows as its stdin, into which nothing comes. wine's own stdin is no such pipe.
 *
 *   launch MILLISECONDS PROGRAM ARGUMENTS...     the pipe is closed after that time; the exit code is the program's
 */
#define WIN32_LEAN_AND_MEAN
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

int main(int argc, char **argv) {
    HANDLE from, to;
    PROCESS_INFORMATION child;
    DWORD code = 99;
    SECURITY_ATTRIBUTES inherited = {sizeof inherited, NULL, TRUE};
    STARTUPINFOA start = {.cb = sizeof start, .dwFlags = STARTF_USESTDHANDLES};
    char *command = argc > 2 ? strstr(GetCommandLineA(), argv[2]) : NULL; /* it and its arguments, as they were quoted */
    if (!command || !CreatePipe(&from, &to, &inherited, 0)) return 99;
    SetHandleInformation(to, HANDLE_FLAG_INHERIT, 0);
    start.hStdInput = from, start.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE), start.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    if (!CreateProcessA(NULL, command, NULL, NULL, TRUE, 0, NULL, NULL, &start, &child)) return 99;
    WaitForSingleObject(child.hProcess, (DWORD)atoi(argv[1]));
    CloseHandle(to);
    WaitForSingleObject(child.hProcess, 20000);
    GetExitCodeProcess(child.hProcess, &code);
    return (int)code;
}
