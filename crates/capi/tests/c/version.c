/* Prints the version: the smallest program that needs the library. */
#include <slimdisk.h>

#include <stdio.h>

int main(void)
{
    char *version = NULL;
    if (slimdisk_Version(&version) != S_OK)
        return 1;
    puts(version);
    return slimdisk_FreeString(version) == S_OK ? 0 : 1;
}
