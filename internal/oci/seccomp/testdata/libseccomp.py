# Lets libseccomp compile what the test asks for: one JSON request on each line, one
# JSON answer on each line. Runs with Debian's python3-seccomp.
import json
import sys
import tempfile

import seccomp

ACTIONS = {
    "kill": lambda data: seccomp.KILL,
    "kill process": lambda data: seccomp.KILL_PROCESS,
    "trap": lambda data: seccomp.TRAP,
    "errno": seccomp.ERRNO,
    "trace": seccomp.TRACE,
    "allow": lambda data: seccomp.ALLOW,
    "log": lambda data: seccomp.LOG,
    "notify": lambda data: seccomp.NOTIFY,
}
OPERATORS = {
    "SCMP_CMP_NE": seccomp.NE, "SCMP_CMP_LT": seccomp.LT, "SCMP_CMP_LE": seccomp.LE, "SCMP_CMP_EQ": seccomp.EQ,
    "SCMP_CMP_GE": seccomp.GE, "SCMP_CMP_GT": seccomp.GT, "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ,
}


def arch(name):
    return getattr(seccomp.Arch, name.removeprefix("SCMP_ARCH_"), None)


def numbers(request):
    """The numbers of calls by architecture, negative where it has no such call."""
    out = {}
    for name in request["arches"]:
        if arch(name) is not None:
            out[name] = {call: seccomp.resolve_syscall(arch(name), call) for call in request["names"]}
    return out


def compile(request):
    action = lambda a: ACTIONS[a["name"]](a["data"])
    f = seccomp.SyscallFilter(action(request["default"]))
    f.remove_arch(seccomp.Arch.NATIVE)  # first: a filter has one byte order
    for name in request["arches"]:
        f.add_arch(arch(name))
    refused = []
    for rule in request["rules"]:
        if seccomp.resolve_syscall(seccomp.Arch.NATIVE, rule["call"]) == -1:
            continue  # unknown to libseccomp, and so left out by runc and crun
        args = [seccomp.Arg(a["index"], OPERATORS[a["op"]], a["value"], a.get("valueTwo", 0)) for a in rule["args"]]
        try:
            f.add_rule(action(rule["action"]), rule["call"], *args)
        except Exception as e:
            refused.append("%s: %s" % (rule["call"], e))
    with tempfile.TemporaryFile() as out:
        f.export_bpf(out)
        out.seek(0)
        return {"program": out.read().hex(), "refused": refused}


for line in sys.stdin:
    request = json.loads(line)
    answer = numbers(request) if "names" in request else compile(request)
    print(json.dumps(answer), flush=True)
