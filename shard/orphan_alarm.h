/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * orphan_alarm - the end of a process that hangs while its supervisor is dead
 *
 * Why:         an orphan leaves by itself, but for one in a callback that does not return; nobody
 *              is left to see that, and the next start would wait for it for ever.
 * Use:         orphan_alarm_set() in a forked child, once signals are as they are to be
 * Concurrency: the child's first thread, whose parent is the supervisor's only one
 * Not here:    how an orphan leaves in order (member.c)
 */

/* Seconds after the supervisor's death: longer than member.c lets an orphan stay. */
#define ORPHAN_ALARM_S 6

/* From now on SIGALRM is not for others. 0 or -errno. After it a change of user or of capabilities
 * would undo it. */
int orphan_alarm_set(void);
