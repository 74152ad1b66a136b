"""Lists where our verdict on a file, or its size or mean pixel, differs from Pillow's.
    build/release/tests/test_odd_images list > build/odd.tsv; python tests/odd_images.py build/odd.tsv"""
import sys
import warnings
import numpy as np
from PIL import Image, ImageOps

warnings.simplefilter('ignore')
same = differ = 0
for line in open(sys.argv[1], errors='surrogateescape'):
    field = line.rstrip('\n').split('\t')
    if len(field) < 3:
        continue
    ours = field[1:]
    try:
        image = ImageOps.exif_transpose(Image.open(field[0])).convert('RGB')
        pillow = ['ok', str(image.width), str(image.height), f'{np.asarray(image).mean():.3f}']
    except Exception as e:
        pillow = ['bad', f'{type(e).__name__}: {e}'[:90]]
    if ours[0] == pillow[0] and (ours[0] == 'bad' or (ours[1:3] == pillow[1:3] and abs(float(ours[3]) - float(pillow[3])) < 2)):
        same += 1
    else:
        differ += 1
        print('/'.join(field[0].split('/')[-2:]), '| ours:', *ours, '| Pillow:', *pillow)
print(f'{same} the same, {differ} differ')
