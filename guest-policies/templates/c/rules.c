// Every VM belongs to a team, and gets no more memory than there is for one.
//
// The rules' numbers are compiled in, so this policy takes no settings. One that does gets them as JSON text in
// request->settings: read it with a JSON library of your choice. No stdio: it would import files, which no policy gets.

#include <stdlib.h>
#include <string.h>

#include "policy.h"

static const char *const teams[] = {"web", "data"};
#define MEMORY_MIB 512
#define TEXT(number) TEXT_(number)
#define TEXT_(number) #number

static bool is(const policy_string_t *text, const char *word) {
  return text->len == strlen(word) && memcmp(text->ptr, word, text->len) == 0;
}

static bool of_a_team(const qhost_policy_types_task_t *task) {
  for (size_t pair = 0; pair < task->meta.len; pair++) {
    if (!is(&task->meta.ptr[pair].f0, "team")) continue;
    for (size_t team = 0; team < sizeof teams / sizeof *teams; team++) {
      if (is(&task->meta.ptr[pair].f1, teams[team])) return true;
    }
  }
  return false;
}

// What is returned is freed by the bindings, so its texts are copies.
static void violate(exports_qhost_policy_decide_list_violation_t *list, const char *code, const char *field,
                    const char *message) {
  list->ptr = realloc(list->ptr, (list->len + 1) * sizeof *list->ptr);
  qhost_policy_types_violation_t *violation = &list->ptr[list->len++];
  memset(violation, 0, sizeof *violation);
  policy_string_dup(&violation->code, code);
  policy_string_dup(&violation->field, field);
  policy_string_dup(&violation->message, message);
}

void exports_qhost_policy_decide_describe(exports_qhost_policy_decide_about_t *about) {
  memset(about, 0, sizeof *about);
  policy_string_dup(&about->name, "__name__");
  policy_string_dup(&about->version, "0.1.0");
  policy_string_dup(&about->description, "Every VM belongs to a team, with a cap on its memory.");
}

bool exports_qhost_policy_decide_check_settings(policy_string_t *settings, policy_string_t *error) {
  if (is(settings, "{}")) return true;
  policy_string_dup(error, "this policy takes no settings");
  return false;
}

// To refuse here, fill `violations` and return false.
bool exports_qhost_policy_decide_choose(exports_qhost_policy_decide_request_t *request,
                                        exports_qhost_policy_decide_launch_t *so_far,
                                        exports_qhost_policy_decide_launch_t *launch,
                                        exports_qhost_policy_decide_list_violation_t *violations) {
  (void)request, (void)violations;
  *launch = *so_far;
  if (launch->resources.memory_mib > MEMORY_MIB) {
    launch->resources.memory_mib = MEMORY_MIB;
    policy_list_string_t *warnings = &launch->warnings;
    warnings->ptr = realloc(warnings->ptr, (warnings->len + 1) * sizeof *warnings->ptr);
    policy_string_dup(&warnings->ptr[warnings->len++], "memory was lowered to " TEXT(MEMORY_MIB) " MiB");
  }
  return true;
}

void exports_qhost_policy_decide_validate(exports_qhost_policy_decide_request_t *request,
                                          exports_qhost_policy_decide_launch_t *launch,
                                          exports_qhost_policy_decide_list_violation_t *violations) {
  memset(violations, 0, sizeof *violations);
  if (!of_a_team(&request->task)) {
    violate(violations, "no-team", "meta.team", "the task names no team of ours");
  }
  // A later policy may have raised it again.
  if (launch->resources.memory_mib > MEMORY_MIB) {
    violate(violations, "too-much-memory", "resources.memory-mib", "more than " TEXT(MEMORY_MIB) " MiB");
  }
}

// Consoles, commands and the like: nothing against any of them.
void exports_qhost_policy_decide_permit(exports_qhost_policy_decide_request_t *request,
                                        exports_qhost_policy_decide_running_t *vm,
                                        exports_qhost_policy_decide_operation_t *operation,
                                        exports_qhost_policy_decide_actor_t *actor,
                                        exports_qhost_policy_decide_list_violation_t *violations) {
  (void)request, (void)vm, (void)operation, (void)actor;
  memset(violations, 0, sizeof *violations);
}
