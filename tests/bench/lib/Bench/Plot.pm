# A plot with two logarithmic axes as SVG.  Text and lines have middle tones, and the background is transparent,
# so that it can be read on a white page and on a dark one.
package Bench::Plot;
use strict;
use warnings;
use Exporter 'import';
use List::Util qw(max min);

our @EXPORT = qw(plot);

my ($width, $height) = (820, 480);
my ($left, $right, $top, $bottom) = (76, 642, 62, 418);
my ($ink, $grid) = ('#7d8590', '#7d8590');
my $font = 'font-family="Helvetica, Arial, sans-serif"';

sub log10 { return log($_[0]) / log 10 }

# What each decade is called on an axis.
sub short
{
	my ($n) = @_;
	return $n >= 1e6 ? $n / 1e6 . 'M' : $n >= 1e3 ? $n / 1e3 . 'k' : $n;
}

sub escape
{
	my ($text) = @_;
	$text =~ s/&/&amp;/g;
	$text =~ s/</&lt;/g;
	return $text;
}

sub text
{
	my ($x, $y, $anchor, $size, $fill, $text, $more) = @_;
	return sprintf qq{<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d" fill="%s" %s%s>%s</text>\n},
		$x, $y, $anchor, $size, $fill, $font, $more // '', escape($text);
}

sub line
{
	my ($x1, $y1, $x2, $y2, $opacity) = @_;
	return sprintf qq{<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-opacity="%s"/>\n},
		$x1, $y1, $x2, $y2, $grid, $opacity;
}

# Labels at the ends of the curves, pushed apart until none covers another.
sub spread
{
	my ($gap, @wanted) = @_;
	my @order = sort { $wanted[$a] <=> $wanted[$b] } 0 .. $#wanted;
	my @y = @wanted;

	for my $pass (1 .. 200)
	{
		for my $i (1 .. $#order)
		{
			my ($upper, $lower) = @order[$i - 1, $i];
			my $overlap = $gap - ($y[$lower] - $y[$upper]);

			next if $overlap <= 0.01;
			$y[$upper] -= $overlap / 2;
			$y[$lower] += $overlap / 2;
		}
	}
	return @y;
}

sub marker
{
	my ($shape, $x, $y, $colour) = @_;
	my $fill = qq{fill="$colour"};

	return sprintf qq{<circle cx="%.1f" cy="%.1f" r="4" %s/>\n}, $x, $y, $fill if $shape eq 'circle';
	return sprintf qq{<rect x="%.1f" y="%.1f" width="7" height="7" %s/>\n}, $x - 3.5, $y - 3.5, $fill if $shape eq 'square';
	return sprintf qq{<path d="M%.1f %.1f l4.6 8 h-9.2 z" %s/>\n}, $x, $y - 5, $fill if $shape eq 'triangle';
	return sprintf qq{<path d="M%.1f %.1f l5 5 l-5 5 l-5 -5 z" %s/>\n}, $x, $y - 5, $fill;
}

# plot(title, subtitle, label of x, label of y, [name, colour, marker, thick|dashed|plain, [[x, y] ...]] ...)
sub plot
{
	my ($title, $subtitle, $x_label, $y_label, @all) = @_;
	my @curves = grep { @{ $_->[4] } } @all;
	my @points = map { @{ $_->[4] } } @curves;
	my ($x_low, $x_high) = (log10(min map { $_->[0] } @points), log10(max map { $_->[0] } @points));
	my $y_low = int(log10(min map { $_->[1] } @points) + 0.001);
	my $y_high = int(log10(max map { $_->[1] } @points) + 0.999);
	my $x_at = sub { $left + (log10($_[0]) - $x_low) / ($x_high - $x_low) * ($right - $left) };
	my $y_at = sub { $bottom - (log10($_[0]) - $y_low) / ($y_high - $y_low) * ($bottom - $top) };

	my $svg = qq{<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 $width $height" width="$width" height="$height" role="img">\n};
	$svg .= '<title>' . escape($title) . "</title>\n";
	$svg .= text($left, 24, 'start', 17, $ink, $title, ' font-weight="bold"');
	$svg .= text($left, 44, 'start', 12, $ink, $subtitle);
	for my $decade ($y_low .. $y_high)
	{
		my $y = $y_at->(10**$decade);
		$svg .= line($left, $y, $right, $y, 0.55) . text($left - 10, $y + 4, 'end', 13, $ink, short(10**$decade));
		next if $decade == $y_high;
		$svg .= line($left, $y_at->($_ * 10**$decade), $right, $y_at->($_ * 10**$decade), 0.16) for 2 .. 9;
	}
	for my $decade (sprintf('%.0f', $x_low) .. sprintf('%.0f', $x_high))
	{
		my $x = $x_at->(10**$decade);
		$svg .= line($x, $top, $x, $bottom, 0.3) . text($x, $bottom + 20, 'middle', 13, $ink, short(10**$decade));
	}
	$svg .= text(($left + $right) / 2, $bottom + 44, 'middle', 13, $ink, $x_label);
	$svg .= text(0, 0, 'middle', 13, $ink, $y_label, sprintf ' transform="translate(24 %.1f) rotate(-90)"', ($top + $bottom) / 2);

	my @ends = spread(17, map { $y_at->($_->[4][-1][1]) } @curves);
	for my $i (0 .. $#curves)
	{
		my ($name, $colour, $shape, $style, $curve) = @{ $curves[$i] };
		my @at = map { [$x_at->($_->[0]), $y_at->($_->[1])] } @$curve;

		$svg .= sprintf qq{<polyline points="%s" fill="none" stroke="%s" stroke-width="%s" stroke-linejoin="round"%s/>\n},
			join(' ', map { sprintf '%.1f,%.1f', @$_ } @at), $colour, $style eq 'thick' ? 3.6 : 2.2,
			$style eq 'dashed' ? ' stroke-dasharray="6 4"' : '';
		$svg .= marker($shape, @$_, $colour) for @at;
		$svg .= marker($shape, $right + 16, $ends[$i], $colour);
		$svg .= text($right + 26, $ends[$i] + 4, 'start', 13, $colour, $name, ' font-weight="bold"');
	}
	return "$svg</svg>\n";
}

1;
