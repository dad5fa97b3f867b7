"""Whom a virtual router's balancers choose, by the program in its appliance, without a kernel: what it checks, when."""

from __future__ import annotations

import subprocess
from importlib.resources import files

import pytest

pytestmark = pytest.mark.system

PROGRAM = files("libvirt_guestnet.router").joinpath("data/balancer")
# What the agent has that this asks for, and a kernel that tracks nothing. A check is begun, and nobody answers yet.
STAGE = r"""
use strict; use warnings;
our ($now, @given) = (0);
sub RUN { return '/nowhere' }
sub now { return $now }
sub spew { push @given, $_[1]; return }
sub output { return ('', 1) }
require $ARGV[0];
no warnings qw(redefine once);
*Balancer::tracked = sub { return };
*Balancer::begin = sub {
    my ($check) = @_;
    $check->{due} = $now + $check->{interval};
    open $check->{socket}, '<', '/dev/null';
    return;
};
sub adopt {
    my ($text) = @_;
    my $chains = join '', map { /^balancer (\S+)/ ? "add chain inet guestnet balance-$1\n"
        : /^member (\S+) (\S+)/ ? "add chain inet guestnet member-$1/$2\n" : '' } split /^/, $text;
    Balancer::adopt(Balancer::read_section($text, $chains));
    return;
}
sub states { return join ' ', map { (split)[2] } split /\n/, Balancer::report() }
"""
WEB = "balancer web round-robin tcp 192.0.2.1 80 80 80 2 2 3\nmember web a 10.0.0.1\nmember web b 10.0.0.2\n"


def run(script: str) -> list[str]:
    """The lines that a script prints on that stage."""
    argv = ["perl", "-e", STAGE + script, str(PROGRAM)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def adopted(text: str) -> str:
    return f'adopt(<<"END");\n{text}END\n'


def test_nobody_gets_a_connection_before_a_first_check() -> None:
    assert run(adopted(WEB) + 'print states(), "\\n"; print scalar(@given), "\\n"; ') == ["new new", "0"]


def test_after_a_take_over_everybody_does_until_a_first_check_is_over() -> None:
    """A router that waited has no link, and so has checked nobody."""
    script = """
    Balancer::take_over();
    print states(), "\\n", $given[-1];
    Balancer::turn('');               # all are asked at once
    print scalar(my @asked = Balancer::sockets()), "\\n";
    $now = 2; Balancer::turn('');     # and nobody has answered in time
    print states(), "\\n", $given[-1];
    """
    rule = "add rule inet guestnet balance-web numgen inc mod 2 vmap { 0 : goto member-web/a, 1 : goto member-web/b }"
    flush = "flush chain inet guestnet balance-web"
    assert run(adopted(WEB) + script) == ["assumed assumed", flush, rule, "2", "down down", flush]


def test_a_take_over_forgets_what_was_known_before() -> None:
    script = """
    Balancer::turn(''); $now = 2; Balancer::turn('');
    print states(), "\\n";
    Balancer::take_over();
    print states(), "\\n";
    """
    assert run(adopted(WEB) + script) == ["down down", "assumed assumed"]


def test_a_member_that_is_new_after_a_take_over_waits_for_its_check() -> None:
    more = WEB + "member web c 10.0.0.3\n"
    script = f"Balancer::take_over();\n{adopted(more)}print states(), qq(\\n);"
    assert run(adopted(WEB) + script) == ["assumed assumed new"]


def test_many_members_are_checked_in_turn() -> None:
    """Each check is a socket: if all were open at once, the agent could open no file any more."""
    many = [
        f"balancer b{n} round-robin tcp 192.0.2.1 {n} {n} {n} 2 2 3\n"
        + "".join(f"member b{n} m{m} 10.0.0.{m}\n" for m in range(1, 51))
        for n in range(1, 11)
    ]
    script = """
    my $most = 0;
    for (1 .. 8) {
        Balancer::turn('');
        my $open = () = Balancer::sockets();
        $most = $open if $open > $most;
        $now += 2;
    }
    print "$most\\n";
    print scalar(grep { $_ eq 'new' } split / /, states()), "\\n";
    """
    assert run(adopted("".join(many)) + script) == ["256", "0"]
