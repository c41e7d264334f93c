"""Background texts by language: short sentences on many subjects, from which a topic is distinguished."""

from collections.abc import Mapping

_EN = """\
The sun rose over the hills and the fog left the valley.
Water boils at a lower temperature high up in the mountains.
A square number is a whole number multiplied by itself.
If a train leaves at noon and travels 60 miles an hour, when does it arrive?
The parliament voted on the new law late on Tuesday.
Inflation rose again last month, said the central bank.
The team won the final by two goals in the last minute.
He ran the marathon in under three hours.
My grandmother taught me how to knit a scarf.
You can do anything if you believe in yourself.
I am so grateful for my friends and family.
I feel sad today and I do not know why.
Thank you so much for your help!
Hello, how are you doing today?
See you tomorrow at the station.
She is the kindest person that I have ever met.
What is the meaning of life?
Life is a journey, not a destination.
Write a poem about autumn leaves.
Translate the sentence into French.
Summarise the article in three points.
Write a function that sorts a list of numbers.
The program crashes when the file is empty.
How do I install the new version on my computer?
Artificial intelligence will change the way we work.
The phone has a bright display and a weak battery.
The laptop is fast, but its fan is loud.
This film is slow, but the actors are wonderful.
A clever thriller that keeps you guessing to the end.
The novel tells the story of two sisters in a small town.
The band played all of their old songs.
The painting hangs in a museum in Madrid.
The hotel room was clean and close to the beach.
Our flight was delayed by four hours.
The waiter was friendly and the soup was hot.
The pizza came cold and an hour late.
Mix flour, eggs and milk, and let the dough rest.
Eat more vegetables and drink enough water.
The blender is easy to clean and very quiet.
The shoes fit well and look great.
My parcel has not arrived yet.
I would like to return this jacket and get my money back.
The customer service never answered my message.
The car needs new brakes and an oil change.
Turn left at the church and cross the bridge.
The city is known for its old castle and narrow streets.
The river flows through three countries into the sea.
The capital of Australia is Canberra.
The empire fell after a long war.
The king was crowned in the year 1066.
The treaty ended the war between the two countries.
Plants turn sunlight into sugar.
The heart pumps blood through the body.
A dog needs a walk at least twice a day.
The cat sleeps on the windowsill all afternoon.
Whales are mammals that live in the sea.
The moon turns around the earth in about a month.
Gravity pulls all things towards each other.
Electrons move around the nucleus of an atom.
The doctor told her to rest for a week.
Take one tablet in the morning with a glass of water.
A good night's sleep helps you to remember.
Regular exercise is good for the heart.
The school year begins in September.
The teacher explained the homework to the students.
How can I learn a language faster?
She applied for a job at the bank.
Send me the report before Friday.
The meeting has been moved to three o'clock.
A good leader listens to the team.
Save a part of your income every month.
The shares of the company fell by five percent.
The rent is due on the first of the month.
The judge sentenced him to two years in prison.
The police are looking for a witness of the accident.
The contract ends after one year.
The house has three bedrooms and a garden.
Paint the wall twice and let it dry overnight.
Plant the tomatoes after the last frost.
The farmer brought in the harvest before the storm.
Heavy rain is expected in the north tonight.
The climate is getting warmer because of greenhouse gases.
Solar panels turn light into electricity.
The bridge was closed after the earthquake.
Once upon a time there was a dragon who was afraid of fire.
Knock, knock. Who is there?
I dreamed that I could fly.
God created heaven and earth.
The philosopher asked what it means to be free.
Everyone has the right to an education.
The internet connects people all over the world.
The app lets you share photos with your friends.
Which colour goes well with dark blue?
The dress is made of silk.
The baby laughed for the first time.
They got married in June.
He did not want to talk about it.
It depends on what you mean.
This is not what I had expected.
I do not agree with you."""
_ZH = """\
太阳从山后升起，雾气离开了山谷。
高山上的水在较低的温度就会沸腾。
平方数是一个整数与自身的乘积。
火车中午出发，每小时行驶六十公里，什么时候到达？
议会在周二深夜表决了新法律。
央行说，上个月物价又上涨了。
球队在最后一分钟以两球优势赢得决赛。
他用不到三小时跑完了马拉松。
奶奶教我织围巾。
只要相信自己，你什么都能做到。
我很感谢我的朋友和家人。
今天我很难过，却不知道为什么。
非常感谢你的帮助！
你好，今天过得怎么样？
明天车站见。
她是我见过的最善良的人。
人生的意义是什么？
人生是一段旅程，而不是终点。
写一首关于秋叶的诗。
把这个句子翻译成英文。
用三点概括这篇文章。
写一个给数字列表排序的函数。
文件为空时程序就会崩溃。
怎样在电脑上安装新版本？
人工智能会改变我们的工作方式。
这部手机屏幕很亮，但电池不耐用。
笔记本电脑很快，但风扇很吵。
电影节奏很慢，演员却很出色。
一部让人猜到最后的悬疑片。
小说讲述了小镇上两姐妹的故事。
乐队演奏了所有的老歌。
这幅画挂在马德里的博物馆里。
酒店房间很干净，离海滩很近。
我们的航班晚点了四个小时。
服务员很热情，汤也很热。
披萨送来时是凉的，还晚了一小时。
把面粉、鸡蛋和牛奶混合，让面团静置。
多吃蔬菜，多喝水。
搅拌机很容易清洗，而且很安静。
鞋子很合脚，也很好看。
我的包裹还没有到。
我想退掉这件外套，把钱拿回来。
客服一直没有回复我的消息。
汽车需要换刹车片和机油。
在教堂左转，然后过桥。
这座城市以古堡和窄巷闻名。
这条河流经三个国家后入海。
澳大利亚的首都是堪培拉。
长期战争之后，帝国灭亡了。
国王于1066年加冕。
条约结束了两国之间的战争。
植物把阳光变成糖分。
心脏把血液输送到全身。
狗每天至少要散步两次。
猫整个下午都睡在窗台上。
鲸是生活在海里的哺乳动物。
月亮大约一个月绕地球一圈。
引力使一切物体互相吸引。
电子围绕原子核运动。
医生让她休息一周。
早上用一杯水服下一片药。
睡个好觉有助于记忆。
经常锻炼对心脏有好处。
学年从九月开始。
老师向学生讲解了作业。
怎样才能更快地学会一门语言？
她申请了银行的工作。
请在周五之前把报告发给我。
会议改到了三点。
好的领导会倾听团队的意见。
每个月存下一部分收入。
公司的股价下跌了百分之五。
房租每月一号交。
法官判他两年徒刑。
警察正在寻找事故的目击者。
合同一年后到期。
这栋房子有三间卧室和一个花园。
墙要刷两遍，晾一夜。
最后一次霜冻之后再种西红柿。
农民在暴风雨之前收完了庄稼。
今晚北部预计有大雨。
由于温室气体，气候正在变暖。
太阳能板把光变成电。
地震之后，大桥关闭了。
从前有一条怕火的龙。
我梦见自己会飞。
上帝创造了天地。
哲学家问，自由意味着什么。
人人都有受教育的权利。
互联网把全世界的人连在一起。
这个应用可以和朋友分享照片。
什么颜色和深蓝色相配？
这条裙子是丝绸做的。
宝宝第一次笑了。
他们六月结了婚。
他不想谈这件事。
这要看你是什么意思。
这和我预想的不一样。
我不同意你的看法。"""
BACKGROUND: Mapping[str, tuple[str, ...]] = {"en": tuple(_EN.splitlines()), "zh": tuple(_ZH.splitlines())}
"""About a hundred sentences of our own for each language: nature, sums, politics, sport, feelings, requests, code,
shopping, films, travel, food, history, science, health, work, money, law, home, small talk."""
