"""Small images of every kind, and their pixels as Pillow reads them: tests/image_fixtures.h. Needs Pillow and numpy."""
import io
import numpy as np
from PIL import Image, ImageOps

rng = np.random.default_rng(3)
small = rng.integers(0, 256, (4, 4, 3), np.uint8)
picture = Image.fromarray(small).resize((11, 7), Image.BICUBIC)
cases = []


def case(name, image, tolerance=0, padded=0, **options):
    f = io.BytesIO()
    image.save(f, **options)
    back = ImageOps.exif_transpose(Image.open(io.BytesIO(f.getvalue()))).convert('RGB')
    cases.append((name, f.getvalue(), np.asarray(back), tolerance, padded))


def exif(orientation):
    e = Image.Exif()
    e[0x0112] = orientation
    return e


case('png', picture, format='PNG')
case('png grey', picture.convert('L'), format='PNG')
case('png palette', picture.quantize(9), format='PNG')
case('png bits', picture.convert('1'), format='PNG')
case('png alpha', picture.convert('RGBA'), format='PNG')
case('bmp', picture, padded=3, format='BMP')
case('gif', picture.quantize(16), format='GIF')
case('jpeg', picture, .5, format='JPEG', quality=90)
case('jpeg progressive', picture, .5, format='JPEG', quality=90, progressive=True)
case('jpeg grey', picture.convert('L'), .5, format='JPEG')
case('jpeg cmyk', picture.convert('CMYK'), .5, format='JPEG', quality=90)
for o in range(2, 9):
    case(f'jpeg orientation {o}', picture, .5, format='JPEG', quality=90, subsampling=0, exif=exif(o))


def numbers(data):
    text = ','.join(str(b) for b in data)
    out = []
    while text:
        cut = len(text) if len(text) <= 124 else text.rfind(',', 0, 124) + 1
        out.append('    ' + text[:cut])
        text = text[cut:]
    return '\n'.join(out)


with open('tests/image_fixtures.h', 'w') as f:
    f.write('/* Made by tests/make_image_fixtures.py. padded: so many bytes at the end say nothing. */\n#include <stdint.h>\n')
    for i, (_, data, pixels, _, _) in enumerate(cases):
        f.write(f'static const uint8_t file_{i}[] = {{\n{numbers(data)}\n}};\n')
        f.write(f'static const uint8_t pixels_{i}[] = {{\n{numbers(pixels.tobytes())}\n}};\n')
    f.write('typedef struct { const char *name; const uint8_t *file; int64_t size; const uint8_t *pixels; int64_t width, height;\n'
            '                 double tolerance; int padded; } image_fixture;\nstatic const image_fixture image_fixtures[] = {\n')
    for i, (name, data, pixels, tolerance, padded) in enumerate(cases):
        f.write(f'    {{ "{name}", file_{i}, {len(data)}, pixels_{i}, {pixels.shape[1]}, {pixels.shape[0]}, {tolerance}, {padded} }},\n')
    f.write('    { 0 },\n};\n')
