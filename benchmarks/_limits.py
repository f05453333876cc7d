"""What a profile says of the rows that miss an aim, for the page: by the row's name, a paragraph."""

from __future__ import annotations

LIMITS = {
    "write": """\
The slower limit writes 1.3 GB/s here and needs one core. Ours hashes the file in a thread beside the one that writes,
and the labels in that one: per 254 MB .15 s of processor are SHA-256 of the file,
.25 s joining headers and contents and writing them, which a raw write of whole
images does not do; other work took part of the second core.""",
    "recut": """\
cp copies in the kernel, at 1.5 GB/s here: one pass of SHA-256 over the bytes alone takes as long as it (.8 s). Of the
command with images shared (profiled with 8,000 images) 62 % read and check the replayed COCO results anew, which a
teacher that is a model does not need, 17 % are the report's page, 10 % the cut, 7 % looking whether files of the
source changed. Inside, the cut opens 20,000 files, hashes each image and its shard, and makes label JSON and rows in
Python threads under one lock. Materialising hashes each byte twice, in its member and in its tar, and copies it in
Python.""",
    "read": """\
An image takes 1.4 ms of processor, as with WebDataset and simplejpeg: 1.1 are decoding, with a look at what libjpeg
warns of and whether all scans are there, .1 parsing and checking its label, .14 finding its members. With 1,000 images
that the system has in memory the rates are the same, one and two workers (458 and 474, 777 and 744 images/s); with
2,000 ours fall behind. The likely cause, not proved: each image is read by an open and a pread of its own, for which
the system does not read ahead as for a tar that is read through.""",
    "scale": """\
These lines come from two runs on one world, the first (scan to the shared build) on older code; re-cut, export, verify,
materialise, fsck and the sources that are read whole (COCO JSON, human labels, replayed results) were not measured at a
million images yet. A million images have 30 million objects here.
*build*: checking labels.parquet for the report held what it had read to the end (331 MB, since then 201).
*diff* cancels equal objects of 2 x 30 million rows in DuckDB, held to 512 MB, so
that it spills, after checking every value of both tables (8 s each); rows of one pool lie in the same order, so that a
comparison row by row would do. *explain* checked every value of the table (8.5 of 14.6 s) and read every key (2.4 s);
it now looks at the row groups that may hold the image: 2.7 s, .8 of them starting, .8 reading the table to hash it the
first time. *log* sizes every file of its versions.""",
    "select": """\
Of .36 s of processor for 2 million objects at a score 43 % open, hash and parse the two Parquet files of each chunk of
512 images, 22 % read the images' states in the pool, the rest applies the rules and counts by reason, class and image.
DuckDB takes .09 s of processor: it hashes nothing, knows no images, and reads the same small files without Python's
lock, for which our threads wait where the machine is busy. nms takes 1.0 s of processor for 2 million objects (.41 of
it sorting by image, class and score), mixture three passes over the pool and 3 s for the fits of 80 classes, whatever
the pool's size.""",
    "load": """\
Of an image's 2.1 ms on a core .93 are decoding (the loop: 1.05), .62 resizing (.52), .26 mirroring and laying it into
the batch as planes (.19: mirroring alone), .3 what the loop does not do: reading and checking its label, placing boxes,
targets.""",
    "fuse": """\
The boxes of a group are clustered one after another, so a batch takes as many rounds as its largest group has boxes,
each of some 25 NumPy calls of a microsecond or more. With one image of 80 classes there are a handful of rounds over
some 60 boxes, and the calls are all the time (53 % in the rounds, 22 % in suppressing one member's doubles before them,
which the package does not do). With three classes there are 300 rounds over 24 groups (60 % and 36 %). Only compiled
code would be much faster.""",
    "duplicates": """\
Undoing the Huffman coding of all bytes is the same work for both: libjpeg takes 1.5 of the 1.6 ms of a COCO image of
161 kB and .80 of .93 ms of a CamVid frame, the hash itself .05 to .1 ms. What is gained is the transform at reduced
size, which pictures of many bytes a pixel have less of.""",
    "verify": """\
It does more than hash: every image is decoded (1.1 of 3.2 ms of processor for an image of 55 kB), every label is parsed
and its 20 boxes are checked against labels.parquet (.8 ms), and each byte is hashed twice, in its member and in its
shard. Hashing alone would be .1 ms. Without decoding it would still be ten times the limit.""",
}
