/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/co_task.h"
int main(void)
{
    return 0;
}
