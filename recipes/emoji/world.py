"""The small world the emoji model knows: concepts, styles, backgrounds.

A concept is one Unicode emoji that at least three of the picture sets draw. Names are CLDR names,
or their plain noun where CLDR adds a qualifier; `aka` are synonyms, picked by hand from
emojibase's tags (the tags also hold moods and jokes) and common usage.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """One object concept: its name, code point and the synonyms captions use."""

    name: str
    code: str
    aka: tuple[str, ...] = ()


STYLES = {
    "noto": "noto",
    "blob": "noto-v1",
    "firefox": "fxemoji",
    "fluent": "fluent-emoji",
    "flat": "fluent-emoji-flat",
    "twitter": "twemoji",
    "emojitwo": "emojione",
}
"""Style name -> icon set that draws it."""

BACKGROUNDS = {
    "white": (255, 255, 255),
    "gray": (150, 150, 155),
    "black": (25, 25, 30),
    "red": (225, 75, 75),
    "yellow": (250, 225, 120),
    "green": (120, 200, 130),
    "blue": (110, 165, 235),
    "purple": (170, 120, 215),
    "pink": (250, 175, 205),
}
"""Background name -> plain RGB colour, 0-255."""

_THINGS = """
cat 1f408 kitty,kitten
dog 1f415 puppy,hound
wolf 1f43a
horse 1f40e stallion,pony
cow 1f404 cattle,heifer
pig 1f416 hog
elephant 1f418
rabbit 1f407 bunny
mouse 1f401
monkey 1f412
bear 1f43b grizzly
panda 1f43c
tiger 1f405
sheep 1f411 ewe,lamb
bird 1f426 sparrow
rooster 1f413 cockerel
penguin 1f427
frog 1f438 toad
turtle 1f422 tortoise,terrapin
snake 1f40d serpent,viper
crocodile 1f40a alligator
whale 1f433
dolphin 1f42c porpoise
fish 1f41f fishes
octopus 1f419
snail 1f40c escargot,slug
butterfly 1f98b moth
bee 1f41d honeybee,bumblebee
spider 1f577 tarantula
red apple 1f34e apple
banana 1f34c
grapes 1f347 bunch of grapes,grape
watermelon 1f349
strawberry 1f353
lemon 1f34b citrus
pineapple 1f34d
cherries 1f352 cherry
tomato 1f345
eggplant 1f346 aubergine
corn 1f33d maize,ear of corn
mushroom 1f344 toadstool,fungus
bread 1f35e loaf,toast
pizza 1f355 pizza slice
hamburger 1f354 burger,cheeseburger
french fries 1f35f fries,chips
birthday cake 1f382 cake,bday cake
ice cream 1f366 soft serve,gelato
doughnut 1f369 donut
cookie 1f36a biscuit,chocolate chip cookie
lollipop 1f36d sucker,candy
beer mug 1f37a beer,ale,pint
wine glass 1f377 wine,glass of wine
cocktail glass 1f378 cocktail,martini
coffee 2615 hot beverage,cup of coffee,tea
bus 1f68c coach
bicycle 1f6b2 bike,cycle,pushbike
airplane 2708 plane,jet,aeroplane
rocket 1f680 spaceship
tractor 1f69c
sailboat 26f5 sailing boat,yacht,boat
car 1f697 automobile
truck 1f69a lorry
locomotive 1f682 steam train,train,steam engine
helicopter 1f681 chopper,copter
pistol 1f52b gun,revolver,handgun
bomb 1f4a3 explosive,boom
dagger 1f5e1 knife
axe 1fa93 hatchet
crossed swords 2694 swords
bow and arrow 1f3f9 archery
cigarette 1f6ac smoking,tobacco
skull 1f480 cranium
hammer 1f528 mallet
key 1f511 keys
scissors 2702 shears
wrench 1f527 spanner
church 26ea chapel
castle 1f3f0 fortress
house 1f3e0 home,cottage
tent 26fa camping tent
guitar 1f3b8 electric guitar
violin 1f3bb fiddle
trumpet 1f3ba horn
rose 1f339
sunflower 1f33b
tulip 1f337
cactus 1f335
palm tree 1f334 palm
pine tree 1f332 evergreen,fir
umbrella 2614 parasol,brolly
sun 2600 sunshine
cloud 2601
snowflake 2744 snow
lightning 26a1 thunderbolt,high voltage
rainbow 1f308
fire 1f525 flame,burn
camera 1f4f7 photo camera
balloon 1f388
crown 1f451 tiara
light bulb 1f4a1 lamp,bulb
top hat 1f3a9
television 1f4fa tv
trophy 1f3c6 prize cup
soccer ball 26bd football,soccer
gift 1f381 wrapped present,present
bell 1f514
anchor 2693
diamond 1f48e gem stone,jewel,gem
"""


def _thing(line: str) -> Thing:
    words = line.split()
    at = next(i for i, w in enumerate(words) if len(w) >= 4 and w[0] in "12" and w.isalnum())
    aka = " ".join(words[at + 1 :])
    return Thing(" ".join(words[:at]), words[at], tuple(aka.split(",")) if aka else ())


THINGS = tuple(_thing(line) for line in _THINGS.strip().splitlines())
NAMES = tuple(t.name for t in THINGS)
SIZE = 64
"""Picture side in pixels."""
