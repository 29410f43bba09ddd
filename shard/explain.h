/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * explain - an error's line for people, beside its number
 *
 * Why:         what failed, on what, why and what to do is known where it fails; where it is shown,
 *              and whether, is the caller's matter.
 * Use:         return explain(ret_error, -EBUSY, "instance %s runs already", name);
 * Concurrency: any thread
 */

/* Sets *ret_error (which may be NULL; free() it) to the text, or to NULL where there is no memory
 * for it, and returns error. */
int explain(char **ret_error, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
